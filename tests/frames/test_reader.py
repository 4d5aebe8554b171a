"""A batch does not depend on the threads that decode it, and an error in one video is raised once with its id."""

from __future__ import annotations

import pytest
import tiny_world
import torch
from torch import Tensor

from components.errors import DataError
from components.frames.reader import FrameReader, View
from components.frames.store import FrameStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    root = tmp_path_factory.mktemp("store")
    tiny_world.write_store(root, tiny_world.videos(11, 2, 2))
    return FrameStore(root / "outputs" / "frames" / tiny_world.TASK)


def half(frames: Tensor) -> Tensor:
    """Acts as a backbone's resize."""
    return frames[..., ::2, ::2]


def turned(name: str, clip: Tensor) -> Tensor:
    """A view that depends on the video."""
    return half(clip).flip(-1) if name.endswith("4") else half(clip)


def reader(store: FrameStore, threads: int, cache_mib: int = 0, frames: int = tiny_world.FRAMES) -> FrameReader:
    return FrameReader(store, half, frames, cache_mib, threads)


@pytest.mark.parametrize("cache_mib", [0, 1])
@pytest.mark.parametrize("view", [None, turned])
def test_threads_and_cache_change_nothing(store: FrameStore, cache_mib: int, view: View | None) -> None:
    ids = ["train004", "train000", *store.ids("all"), "train004"]
    expected = reader(store, 1).batch(ids, view)
    for threads in (1, 8):
        made = reader(store, threads, cache_mib)
        # The second batch comes from the cache, if there is one.
        for _ in range(2):
            frames, mask = made.batch(ids, view)
            assert torch.equal(frames, expected[0])
            assert torch.equal(mask, expected[1])
            # Ids that repeat give equal rows, and absent frames are black.
            assert torch.equal(frames[0], frames[-1])
            assert not frames[~mask].any()


@pytest.mark.parametrize("threads", [1, 8])
def test_the_cache_keeps_the_order_of_the_batch(store: FrameStore, threads: int) -> None:
    made = reader(store, threads, cache_mib=1)
    made.batch(store.ids("all")[:6])
    assert {name for name, _ in made._cache} == set(store.ids("all")[:6])


@pytest.mark.parametrize("threads", [1, 8])
def test_an_error_in_one_video_is_raised_once_with_its_id(store: FrameStore, threads: int) -> None:
    """Every fifth video has three frames, the others have four."""
    made = reader(store, threads, frames=3)
    with pytest.raises(DataError, match=r"train005.*found 4.*1 to 3 frames") as raised:
        made.batch(["train004", "train005"])
    assert str(raised.value).count("train005") == 1
    # The reader still works.
    assert made.batch(["train004"])[1].tolist() == [[True] * 3]
