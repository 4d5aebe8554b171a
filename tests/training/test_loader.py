"""Stored JPEG frames become batches: shapes, masks, order, and a cache that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import tiny_world
import torch

from components.errors import DataError
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.training.augmentation import crop_flip
from components.training.batch import Batch
from components.training.batches import BatchPlan
from components.training.hard_batches import split_videos
from components.training.loader import Augment, Loader

TRAIN = 11


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    root = tmp_path_factory.mktemp("store")
    tiny_world.write_store(root, tiny_world.videos(TRAIN, 2, 2))
    return FrameStore(root / "outputs" / "frames" / tiny_world.TASK)


def half(frames: torch.Tensor) -> torch.Tensor:
    """Acts as a backbone's resize."""
    return frames[..., ::2, ::2]


def tokenize(texts: Sequence[str]) -> torch.Tensor:
    return torch.tensor([[len(text)] for text in texts])


def test_short_videos_are_padded_and_masked(store: FrameStore) -> None:
    reader = FrameReader(store, half, tiny_world.FRAMES, cache_mib=1)
    frames, mask = reader.batch(["train004", "train000", "train004"])
    assert frames.shape == (3, tiny_world.FRAMES, 3, 16, 16)
    assert frames.dtype == torch.uint8
    assert mask.tolist() == [[True] * 3 + [False], [True] * 4, [True] * 3 + [False]]
    assert not frames[0, 3].any()
    assert torch.equal(frames[0], frames[2])
    drawn = torch.from_numpy(tiny_world.draw(store.manifest.videos[0], 4)).permute(0, 3, 1, 2)[..., ::2, ::2]
    assert (frames[1].float() - drawn.float()).abs().mean() < 4


@pytest.mark.parametrize("cache_mib", [0, 1])
def test_the_cache_changes_nothing(store: FrameStore, cache_mib: int) -> None:
    reader = FrameReader(store, half, tiny_world.FRAMES, cache_mib)
    first = reader.batch(store.ids("all"))
    again = reader.batch(store.ids("all"))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(reader._cache) == (len(store.ids("all")) if cache_mib else 0)


def test_the_cache_keeps_to_its_budget(store: FrameStore) -> None:
    reader = FrameReader(store, lambda frames: frames.repeat(1, 1, 6, 6), tiny_world.FRAMES, cache_mib=1)
    reader.batch(store.ids("all"))
    used = sum(clip.nbytes for clip in reader._cache.values())
    assert 0 < used <= 2**20
    assert len(reader._cache) < len(store.ids("all"))


def test_more_frames_than_the_task_has_are_refused(store: FrameStore) -> None:
    with pytest.raises(
        DataError, match=r"train000.*found 4.*1 to 3 frames.*set tasks.tiny.frames to 3 and run ingest for tiny"
    ):
        FrameReader(store, half, 3, cache_mib=1).batch(["train000"])


def loader(
    store: FrameStore, rank: int = 0, world: int = 1, batch_size: int = 5, augment: Augment | None = None, **plan: Any
) -> Loader:
    videos = split_videos(store, "train")
    made = BatchPlan([len(video.captions) for video in videos], batch_size, seed=0, **plan)
    reader = FrameReader(store, half, tiny_world.FRAMES, 1)
    return Loader(made, videos, reader, tokenize, rank, world, micro_batches=4, augment=augment)


def test_batches_follow_the_plan_over_epochs_and_from_any_step(store: FrameStore) -> None:
    whole = list(loader(store).batches(0, 6))
    assert len(whole) == 6
    for step, batch in enumerate(whole):
        plan = loader(store).plan.epoch(step // 2)
        assert batch.ids == tuple(f"train{row:03d}" for row in plan.videos[step % 2])
        assert batch.videos == batch.captions == (2, 1, 1, 1)
    for batch, resumed in zip(whole[3:], loader(store).batches(3, 6), strict=True):
        assert same(batch, resumed)


@pytest.mark.parametrize("world", [2, 4])
def test_micro_batches_are_the_same_in_any_process(store: FrameStore, world: int) -> None:
    """Videos have two captions. The last batch has three videos, so its last micro-batch is empty."""
    plan: dict[str, Any] = {"batch_size": 4, "captions_per_video": 2, "last_batch": "keep"}
    shares = [list(loader(store, rank, world, **plan).batches(0, 3)) for rank in range(world)]
    for step, batch in enumerate(loader(store, **plan).batches(0, 3)):
        parts = [part for rank in range(world) for part in shares[rank][step].micro_batches()]
        assert [part.number for part in parts] == list(range(min(4, len(batch.ids))))
        for part, single in zip(parts, batch.micro_batches(), strict=True):
            assert all(torch.equal(getattr(part, name), getattr(single, name)) for name in ("frames", "mask", "tokens"))
            assert part.frames.shape[0] * 2 == part.tokens.shape[0] == batch.captions[part.number]
        for rank in range(world):
            share = shares[rank][step]
            assert share.ids == batch.ids
            assert torch.equal(share.owner, batch.owner)
            sizes = [sum(len(part.mask) for part in shares[r][step].micro_batches()) for r in range(world)]
            assert share.sizes_by_process(share.videos) == sizes


def test_captions_belong_to_their_videos(store: FrameStore) -> None:
    """Micro-batch v holds the videos v::V, and ``owner`` gives each caption's video in that order."""
    made = loader(store, batch_size=5, captions_per_video=2)
    made.tokenize = lambda texts: torch.tensor([[*text.encode().ljust(60)] for text in texts])
    (batch,) = made.batches(0, 1)
    order = [name for part in range(4) for name in batch.ids[part::4]]
    captions = {video.video_id: video.captions for video in made.videos}
    texts = [bytes(row.tolist()).decode().strip() for row in batch.tokens]
    assert sorted(texts) == sorted(text for name in batch.ids for text in captions[name])
    assert all(text in captions[order[owner]] for text, owner in zip(texts, batch.owner, strict=True))


@pytest.mark.parametrize("world", [1, 2])
def test_texts_of_several_videos_are_found_in_every_process(store: FrameStore, world: int) -> None:
    """The tokens are those of a loader that does not look, also if an equal caption belongs to another process."""
    plan: dict[str, Any] = {"batch_size": 5, "captions_per_video": 2}

    def made(rank: int, find: bool) -> Loader:
        found = loader(store, rank, world, **plan)
        # Only the colour is left of a caption, as if the rest were cut. Training videos repeat colours.
        found.tokenize = lambda texts: torch.tensor([[sum(c in text for c in "gbw")] for text in texts])
        found.find_shared = find
        return found

    seen: list[list[Batch]] = []
    for rank in range(world):
        seen.append(list(made(rank, True).batches(0, 2)))
        for batch, plain in zip(seen[-1], made(rank, False).batches(0, 2), strict=True):
            assert plain.same_text is None
            assert torch.equal(batch.tokens, plain.tokens)
    for shares in zip(*seen, strict=True):
        numbers = shares[0].same_text
        assert numbers is not None
        tokens = torch.cat([share.tokens for share in shares])[:, 0]
        assert torch.equal(numbers[:, None] == numbers, tokens[:, None] == tokens)
        assert all(share.same_text is not None and torch.equal(share.same_text, numbers) for share in shares)


def test_augmentation_is_a_draw_per_video_and_epoch(store: FrameStore) -> None:
    """It is the same in any process and from any step, and differs in the next epoch. Validation frames stay."""
    augment = partial(crop_flip, side=16, interpolation="bicubic")
    whole, again = (list(loader(store, augment=augment, batch_size=10).batches(0, 2)) for _ in range(2))
    assert all(same(a, b) for a, b in zip(whole, again, strict=True))
    share = next(loader(store, 1, 2, augment=augment, batch_size=10).batches(1, 2))
    assert torch.equal(share.micro_batches()[0].frames, whole[1].micro_batches()[2].frames)
    assert whole[0].frames.dtype == torch.uint8
    place = {name: (whole[0].micro_batches()[i % 4].frames[i // 4]) for i, name in enumerate(whole[0].ids)}
    later = {name: (whole[1].micro_batches()[i % 4].frames[i // 4]) for i, name in enumerate(whole[1].ids)}
    assert any(not torch.equal(place[name], later[name]) for name in place.keys() & later.keys())
    made = loader(store, augment=augment)
    next(made.batches(0, 1))
    plain = FrameReader(store, half, tiny_world.FRAMES, 0).batch(store.ids("train"))
    assert torch.equal(made.reader.batch(store.ids("train"))[0], plain[0])


def test_a_fault_in_the_background_reaches_the_loop(store: FrameStore) -> None:
    broken = loader(store)
    broken.reader.frames = 1
    with pytest.raises(DataError, match="more frames of a video than the method takes"):
        next(broken.batches(0, 2))


def same(left: Batch, right: Batch) -> bool:
    return left.ids == right.ids and all(
        torch.equal(getattr(left, name), getattr(right, name)) for name in ("frames", "mask", "tokens")
    )
