"""From stored JPEG frames to batches: shapes, masks, order, and a cache that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import tiny_world
import torch

from components.errors import DataError
from components.frames.store import FrameStore
from components.training.batches import BatchPlan
from components.training.hardness import split_videos
from components.training.loader import Batch, Loader
from components.training.reader import FrameReader

TRAIN = 11


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    root = tmp_path_factory.mktemp("store")
    tiny_world.write_store(root, tiny_world.videos(TRAIN, 2, 2))
    return FrameStore(root / "outputs" / "frames" / tiny_world.TASK)


def half(frames: torch.Tensor) -> torch.Tensor:
    """Stands for a backbone's resize."""
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
    with pytest.raises(DataError, match=r"train000.*found 4.*1 to 3 frames.*run ingest again"):
        FrameReader(store, half, 3, cache_mib=1).batch(["train000"])


def loader(store: FrameStore, rank: int = 0, world: int = 1) -> Loader:
    videos = split_videos(store, "train")
    plan = BatchPlan([len(video.captions) for video in videos], 5, seed=0)
    return Loader(plan, videos, FrameReader(store, half, tiny_world.FRAMES, 1), tokenize, rank, world)


def test_batches_follow_the_plan_over_epochs_and_from_any_step(store: FrameStore) -> None:
    whole = list(loader(store).batches(0, 6))
    assert len(whole) == 6
    for step, batch in enumerate(whole):
        plan = loader(store).plan.epoch(step // 2)
        assert batch.ids == tuple(f"train{row:03d}" for row in plan.videos[step % 2])
        assert batch.total == len(batch.ids) == 5
    for batch, resumed in zip(whole[3:], loader(store).batches(3, 6), strict=True):
        assert same(batch, resumed)


def test_ranks_deal_out_each_batch(store: FrameStore) -> None:
    whole = list(loader(store).batches(0, 4))
    shares = [list(loader(store, rank, 2).batches(0, 4)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert shares[0][step].ids == shares[1][step].ids == batch.ids
        for rank in range(2):
            assert torch.equal(shares[rank][step].frames, batch.frames[rank::2])
            assert torch.equal(shares[rank][step].tokens, batch.tokens[rank::2])


def test_a_fault_in_the_background_reaches_the_loop(store: FrameStore) -> None:
    broken = loader(store)
    broken.reader.frames = 1
    with pytest.raises(DataError, match="stored frames do not fit"):
        next(broken.batches(0, 2))


def same(left: Batch, right: Batch) -> bool:
    return left.ids == right.ids and all(
        torch.equal(getattr(left, name), getattr(right, name)) for name in ("frames", "mask", "tokens")
    )
