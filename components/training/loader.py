"""Batches of tensors, made by a background thread in the order of the plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from components.errors import TrainingError
from components.frames.reader import FrameReader
from components.frames.staging import Staging
from components.frames.store import FrameStore
from components.manifest import Video
from components.methods.base import Method
from components.processes import rank_and_world
from components.training.augmentation import crop_flip
from components.training.batches import BatchPlan, Epoch, Ints, check_sizes, check_workers
from components.training.hard_batches import caption_embeddings, split_videos
from components.training.settings import TrainingSettings

# Batches made ahead of the training step.
AHEAD = 2
# Host buffers for them: those made ahead, the one in use, and the one being filled.
BUFFERS = AHEAD + 2

# Keeps the draws of crops apart from those of batches, which come from the same seed and epoch.
AUGMENTATION = 1

Augment = Callable[[Tensor, np.random.Generator], Tensor]


@dataclass(frozen=True)
class MicroBatch:
    """Pairs that are encoded in one pass.

    Attributes:
        number: which slice of the global batch.
        ids: the video ids.
        frames: uint8[b, T, 3, S, S].
        mask: bool[b, T], true where a frame is real.
        tokens: int64[c, L], the videos' captions, c at least b.
    """

    number: int
    ids: tuple[str, ...]
    frames: Tensor
    mask: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Batch:
    """A global batch of B videos and C captions, and one process's share of its tensors.

    The batch is cut into V micro_batches, slice s being the videos ``s::V``; each of W processes has ``V / W`` micro_batches, one
    after the other. In a short batch some are empty.

    Attributes:
        ids: the video ids of the whole global batch.
        owner: int64[C], the video of each caption; rows stand in the order of the micro_batches.
        videos: V numbers, the videos of each slice.
        captions: V numbers, the captions of each slice.
        own: this process's micro_batches.
        frames: uint8[b, T, 3, S, S], of this process's micro_batches one after the other.
        mask: bool[b, T], true where a frame is real.
        tokens: int64[c, L].
        real_frames: frames of this process that are not padding.
    """

    ids: tuple[str, ...]
    owner: Tensor
    videos: tuple[int, ...]
    captions: tuple[int, ...]
    own: range
    frames: Tensor
    mask: Tensor
    tokens: Tensor
    real_frames: int = 0

    def to(self, device: torch.device, staging: Staging | None = None) -> Batch:
        """The same batch on ``device``, copied on the current stream.

        Args:
            device: Where the towers run.
            staging: Where ``frames`` was taken from, if it was.
        """
        names = ("owner", "mask", "tokens")
        small = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        frames = staging.upload(self.frames, device) if staging else self.frames.to(device, non_blocking=True)
        return replace(self, frames=frames, **small)

    def used_by(self, stream: torch.cuda.Stream) -> None:
        """Keeps the memory of the tensors until ``stream`` has read them, where another stream copied them."""
        for tensor in (self.owner, self.frames, self.mask, self.tokens):
            tensor.record_stream(stream)

    def micro_batches(self) -> list[MicroBatch]:
        """This process's micro_batches that are not empty."""
        videos = [self.videos[index] for index in self.own]
        texts = self.tokens.split([self.captions[index] for index in self.own])
        ids = [self.ids[index :: len(self.videos)] for index in self.own]
        parts = zip(self.own, ids, self.frames.split(videos), self.mask.split(videos), texts, strict=True)
        return [MicroBatch(*part) for part in parts if part[1]]

    def shares(self, sizes: tuple[int, ...]) -> list[int]:
        """``sizes`` of micro_batches added up per process."""
        count = len(self.own)
        return [sum(sizes[start : start + count]) for start in range(0, len(sizes), count)]


class Loader:
    """Turns a plan's batches into tensors.

    Args:
        plan: which videos and captions.
        videos: the training videos; the plan's rows.
        reader: gives the frames.
        tokenize: texts -> int64[c, L].
        rank: this process.
        world: number of processes; divides ``micro_batches``.
        micro_batches: ``V``, see :class:`Batch`.
        augment: the frames as stored, and a generator -> uint8[t, 3, S, S]; None for frames as the reader gives them.
        device: Where batches are copied to, ahead of the step. None leaves them in host memory.

    Raises:
        TrainingError: ``world`` does not divide ``micro_batches``.
    """

    def __init__(
        self,
        plan: BatchPlan,
        videos: Sequence[Video],
        reader: FrameReader,
        tokenize: Callable[[Sequence[str]], Tensor],
        rank: int,
        world: int,
        micro_batches: int = 1,
        augment: Augment | None = None,
        device: torch.device | None = None,
    ) -> None:
        check_workers(world, micro_batches)
        self.plan = plan
        self.videos = videos
        self.reader = reader
        self.tokenize = tokenize
        self.micro_batches = micro_batches
        self.own = range(rank * micro_batches // world, (rank + 1) * micro_batches // world)
        self.augment = augment
        self.device = device
        # Copies go ahead of the step, next to its kernels.
        self._stream = torch.cuda.Stream(device) if device is not None and device.type == "cuda" else None
        self._staging = Staging(BUFFERS) if self._stream is not None else None
        self._current: tuple[int, Epoch] | None = None

    def batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """The batches of steps ``start`` (inclusive, from 0) to ``stop``, over epoch borders.

        One thread works in the plan's order, so timing cannot change what a step sees.
        """
        threads = torch.get_num_threads()
        # A new thread does not inherit the number that was set for this one.
        with ThreadPoolExecutor(1, "loader", torch.set_num_threads, (threads,)) as pool:
            ahead: deque[Future[tuple[Batch, torch.cuda.Event | None]]] = deque()
            try:
                for step in range(start, stop):
                    while len(ahead) <= AHEAD and step + len(ahead) < stop:
                        ahead.append(pool.submit(self._upload, step + len(ahead)))
                    batch, copied = ahead.popleft().result()
                    if copied is not None:
                        stream = torch.cuda.current_stream(self.device)
                        stream.wait_event(copied)
                        batch.used_by(stream)
                    yield batch
            finally:
                for future in ahead:
                    future.cancel()

    def _upload(self, step: int) -> tuple[Batch, torch.cuda.Event | None]:
        """The batch of a step on the device, and the event after which it is there."""
        batch = self._make(step)
        if self._stream is None or self.device is None:
            return batch, None
        with torch.cuda.stream(self._stream):
            batch = batch.to(self.device, self._staging)
            copied = torch.cuda.Event()
            copied.record(self._stream)
        return batch, copied

    def _make(self, step: int) -> Batch:
        number, index = divmod(step, self.plan.steps_per_epoch)
        epoch = self._epoch(number)
        rows, captions = epoch.videos[index], epoch.captions[index]
        parts = [slice(s, None, self.micro_batches) for s in range(self.micro_batches)]
        counts = np.concatenate([(captions[part] >= 0).sum(axis=1) for part in parts])
        own = np.concatenate([np.arange(len(rows))[parts[s]] for s in self.own])
        frames, mask = self._frames(number, rows[own])
        texts = [self.videos[r].captions[c] for r, of_video in zip(rows[own], captions[own], strict=True)
                 for c in of_video if c >= 0]  # fmt: skip
        return Batch(
            ids=tuple(self.videos[row].video_id for row in rows),
            owner=torch.from_numpy(np.repeat(np.arange(len(rows)), counts)),
            videos=tuple(len(rows[part]) for part in parts),
            captions=tuple(int((captions[part] >= 0).sum()) for part in parts),
            own=self.own,
            frames=frames,
            mask=mask,
            tokens=self.tokenize(texts),
            real_frames=int(mask.sum()),
        )

    def _frames(self, epoch: int, rows: Ints) -> tuple[Tensor, Tensor]:
        ids = [self.videos[row].video_id for row in rows]
        augment, seed = self.augment, self.plan.seed
        if augment is None:
            return self.reader.batch(ids, staging=self._staging)
        # A draw per video and epoch: the same in whatever batch, process or attempt the video comes.
        draws = dict(zip(ids, rows.tolist(), strict=True))

        def view(name: str, clip: Tensor) -> Tensor:
            return augment(clip, np.random.default_rng([seed, epoch, draws[name], AUGMENTATION]))

        return self.reader.batch(ids, view, self._staging)

    def _epoch(self, number: int) -> Epoch:
        if self._current is None or self._current[0] != number:
            self._current = (number, self.plan.epoch(number))
        return self._current[1]


def training_videos(store: FrameStore, settings: TrainingSettings) -> list[Video]:
    """The decoded videos of the train split, if the settings make batches of them.

    Raises:
        TrainingError: none; as :func:`check_sizes`; or cached layers of frames that augmentation changes.
    """
    videos = split_videos(store, "train")
    if not videos:
        raise TrainingError("no training videos", where=store.uri, expected="a decoded train split")
    check_sizes(len(videos), settings)
    if settings.cache_frozen and settings.augmentation != "none":
        raise TrainingError(
            "frozen layers cannot be kept for frames that change",
            where="training.cache_frozen",
            found=f"true with augmentation: {settings.augmentation}",
            expected="one of the two",
        )
    return videos


def make_loader(
    method: Method, store: FrameStore, settings: TrainingSettings, seed: int, reader: FrameReader
) -> Loader:
    """The loader of this process.

    Raises:
        TrainingError: as :func:`training_videos`, or the processes do not divide the micro_batches.
    """
    videos = training_videos(store, settings)
    neighbours = caption_embeddings(method, videos) if settings.batching == "hard" else None
    plan = BatchPlan(
        [len(video.captions) for video in videos], settings.batch_size, seed, settings.batching, settings.hard_group,
        neighbours, settings.captions_per_video, settings.last_batch,
    )  # fmt: skip
    backbone, words = method.backbone, method.words
    spec = backbone.spec
    crops = partial(crop_flip, side=spec.image_size, interpolation=spec.interpolation)
    rank, world = rank_and_world()
    return Loader(
        plan, videos, reader, lambda texts: backbone.tokenize(texts, words), rank, world, settings.micro_batches,
        crops if settings.augmentation == "crop_flip" else None, next(method.parameters()).device,
    )  # fmt: skip
