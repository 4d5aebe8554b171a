"""A batch does not depend on the threads that decode it, and an error in one video is raised once with its id."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_world
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_store import SETTINGS, make_store, row_of
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

from components.errors import DataError
from components.frames.reader import FrameReader, View
from components.frames.store import FrameStore
from components.params import load_params
from components.training.augmentation import crop_flip


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


@given(st.integers(20, 60), st.integers(20, 60), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_interleaved_colours_change_no_pixel(height: int, width: int, seed: int) -> None:
    """The filters have different kernels for both layouts, and both must round the same."""
    rng = np.random.default_rng(seed)
    clip = torch.from_numpy(rng.integers(0, 256, (2, height, width, 3)).astype(np.uint8)).permute(0, 3, 1, 2)
    apart = clip.contiguous()
    for interpolation in ("bicubic", "bilinear"):
        made = [crop_flip(frames, np.random.default_rng(seed), 32, interpolation) for frames in (clip, apart)]
        assert torch.equal(*made)
        mode = InterpolationMode(interpolation)
        assert torch.equal(*(V.resize(frames, [32], mode, antialias=True) for frames in (clip, apart)))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts the bytes that a process reads")
def test_a_random_batch_reads_hardly_more_than_its_videos(tmp_path: Path) -> None:
    """With the row groups of params.yaml, at most 1.5 times the wanted bytes."""
    group = load_params(Path(__file__).resolve().parents[2] / "params.yaml").frames.row_group_videos
    rng = np.random.default_rng(0)

    def row(name: str) -> dict[str, object]:
        return {**row_of(name), "frames": [rng.bytes(20_000) for _ in range(12)]}

    made = dataclasses.replace(SETTINGS, shard_videos=128, row_group_videos=group)
    make_store(tmp_path, made, {"train": 128}, row)
    store = FrameStore(tmp_path)
    names = store.ids("all")
    assert len(list(store.read(names))) == 127  # what is read only once is read now
    wanted = [str(name) for name in rng.choice(names, 16, replace=False)]
    before = bytes_read()
    videos = list(store.read(wanted))
    read = bytes_read() - before
    assert [video.video_id for video in videos] == wanted
    assert read < 1.5 * sum(len(frame) for video in videos for frame in video.frames)


def bytes_read() -> int:
    """What this process has read from files, in bytes."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("rchar")))
