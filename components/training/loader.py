"""Batches of tensors, made by a background thread in the order of the plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from components.benchmarks.base import Video
from components.config import Training
from components.errors import TrainingError
from components.frames.store import FrameStore
from components.methods.base import Method
from components.training.batches import BatchPlan, Epoch, check_sizes
from components.training.collective import rank_and_world
from components.training.hardness import caption_embeddings, split_videos
from components.training.reader import FrameReader

# Batches made ahead of the training step.
AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """One process's share of a global batch.

    Attributes:
        ids: the video ids of the whole global batch.
        total: ``B``, pairs in the global batch.
        frames: uint8[b, T, 3, S, S].
        mask: bool[b, T], true where a frame is real.
        tokens: int64[b, L].
    """

    ids: tuple[str, ...]
    total: int
    frames: Tensor
    mask: Tensor
    tokens: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        move = {name: getattr(self, name).to(device, non_blocking=True) for name in ("frames", "mask", "tokens")}
        return Batch(self.ids, self.total, **move)


class Loader:
    """Turns a plan's batches into tensors.

    Args:
        plan: which videos and captions.
        videos: the training videos; the plan's rows.
        reader: gives the frames.
        tokenize: texts -> int64[b, L].
        rank: this process; it takes ``rank::world`` of each batch.
        world: number of processes.
    """

    def __init__(
        self,
        plan: BatchPlan,
        videos: Sequence[Video],
        reader: FrameReader,
        tokenize: Callable[[Sequence[str]], Tensor],
        rank: int,
        world: int,
    ) -> None:
        self.plan = plan
        self.videos = videos
        self.reader = reader
        self.tokenize = tokenize
        self.rank = rank
        self.world = world
        self._current: tuple[int, Epoch] | None = None

    def batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """The batches of steps ``start`` (inclusive, from 0) to ``stop``, over epoch borders.

        One thread works in the plan's order, so timing cannot change what a step sees.
        """
        threads = torch.get_num_threads()
        # A new thread does not inherit the number that was set for this one.
        with ThreadPoolExecutor(1, "loader", torch.set_num_threads, (threads,)) as pool:
            ahead: deque[Future[Batch]] = deque()
            try:
                for step in range(start, stop):
                    while len(ahead) <= AHEAD and step + len(ahead) < stop:
                        ahead.append(pool.submit(self._make, step + len(ahead)))
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _make(self, step: int) -> Batch:
        number, index = divmod(step, self.plan.steps_per_epoch)
        epoch = self._epoch(number)
        rows, captions = epoch.videos[index], epoch.captions[index]
        ids = tuple(self.videos[row].video_id for row in rows)
        share = slice(self.rank, None, self.world)
        frames, mask = self.reader.batch(ids[share])
        texts = [self.videos[r].captions[c] for r, c in zip(rows[share], captions[share], strict=True)]
        return Batch(ids, len(ids), frames, mask, self.tokenize(texts))

    def _epoch(self, number: int) -> Epoch:
        if self._current is None or self._current[0] != number:
            self._current = (number, self.plan.epoch(number))
        return self._current[1]


def training_videos(store: FrameStore, settings: Training) -> list[Video]:
    """The decoded videos of the train split, if the settings make batches of them.

    Raises:
        TrainingError: none, fewer than a batch, a group larger than a batch, or more workers than videos in a batch.
    """
    videos = split_videos(store, "train")
    if not videos:
        raise TrainingError("no training videos", where=store.uri, expected="a decoded train split")
    check_sizes(len(videos), settings.batch_size, settings.batching, settings.hard_group)
    if settings.batch_size < settings.workers:
        raise TrainingError(
            "more workers than videos in a batch",
            where="training.workers",
            found=settings.workers,
            expected=f"at most training.batch_size, {settings.batch_size}",
        )
    return videos


def make_loader(method: Method, store: FrameStore, settings: Training, seed: int, reader: FrameReader) -> Loader:
    """The loader of this process.

    Raises:
        TrainingError: as :func:`training_videos`.
    """
    videos = training_videos(store, settings)
    neighbours = caption_embeddings(method, videos) if settings.batching == "hard" else None
    counts = [len(video.captions) for video in videos]
    plan = BatchPlan(counts, settings.batch_size, seed, settings.batching, settings.hard_group, neighbours)
    backbone, words = method.backbone, method.words
    return Loader(plan, videos, reader, lambda texts: backbone.tokenize(texts, words), *rank_and_world())
