"""Batches of tensors, made by a background thread in the plan's order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from components.captions.file import FrameCaptions
from components.errors import TrainingError
from components.frames.reader import FrameReader
from components.frames.staging import Staging
from components.frames.store import FrameStore
from components.methods.base import Method
from components.processes import rank_and_world
from components.training.augmentation import crop_flip
from components.training.batch import Batch
from components.training.batches import BatchPlan, Epoch, Ints, check_sizes, check_workers
from components.training.hard_batches import caption_embeddings, repeated_captions, split_videos, warn_of_repeats
from components.training.loss import shared_texts
from components.training.settings import TrainingSettings
from components.video import Video

# Batches made ahead of the training step.
AHEAD = 2
# Host buffers for them: those made ahead, the one in use, and the one being filled.
BUFFERS = AHEAD + 2

# Separates the draws of crops from those of batches, which have the same seed and epoch.
AUGMENTATION = 1

Augment = Callable[[Tensor, np.random.Generator], Tensor]


class Loader:
    """Turns a plan's batches into tensors.

    Args:
        plan: Which videos and captions make up each batch.
        videos: The training videos; the plan's rows index them.
        reader: Reads the frames.
        tokenize: Maps texts to int64[c, L].
        rank: This process's rank.
        world: Number of processes. It divides ``micro_batches``.
        micro_batches: ``V``, see :class:`Batch`.
        augment: Maps the stored frames and a generator to uint8[t, 3, S, S]. None leaves frames as the reader gives
            them.
        device: Where batches are copied to, ahead of the step. None leaves them in host memory.
        find_shared: Whether texts that several videos of a batch have are looked for.
        frame_captions: The captions of a video's frames by video id. None if the method needs none.

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
        find_shared: bool = False,
        frame_captions: FrameCaptions | None = None,
    ) -> None:
        check_workers(world, micro_batches)
        self.plan = plan
        self.videos = videos
        self.reader = reader
        self.tokenize = tokenize
        self.micro_batches = micro_batches
        self.local = range(rank * micro_batches // world, (rank + 1) * micro_batches // world)
        self.augment = augment
        self.device = device
        self.find_shared = find_shared
        self.frame_captions = frame_captions
        # Copies go ahead of the step, next to its kernels.
        self._stream = torch.cuda.Stream(device) if device is not None and device.type == "cuda" else None
        self._staging = Staging(BUFFERS) if self._stream is not None else None
        self._current: tuple[int, Epoch] | None = None

    def batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """The batches of steps ``start`` (inclusive, from 0) to ``stop`` (exclusive), across epochs.

        One thread works in the plan's order, so timing cannot change what a step sees.
        """
        threads = torch.get_num_threads()
        # A new thread does not inherit this thread's setting.
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
        parts = [slice(v, None, self.micro_batches) for v in range(self.micro_batches)]
        counts = np.concatenate([(captions[part] >= 0).sum(axis=1) for part in parts])
        local = np.concatenate([np.arange(len(rows))[parts[v]] for v in self.local])
        frames, mask = self._frames(number, rows[local])
        owner = torch.from_numpy(np.repeat(np.arange(len(rows)), counts))
        tokens, same_text = self._tokens(rows, captions, parts, local, owner)
        return Batch(
            ids=tuple(self.videos[row].video_id for row in rows),
            owner=owner,
            videos=tuple(len(rows[part]) for part in parts),
            captions=tuple(int((captions[part] >= 0).sum()) for part in parts),
            local=self.local,
            frames=frames,
            mask=mask,
            tokens=tokens,
            real_frames=int(mask.sum()),
            same_text=same_text,
            frame_captions=self._frame_captions(rows[local], mask.shape[1]),
        )

    def _frame_captions(self, rows: Ints, frames: int) -> Tensor | None:
        """The tokens of a caption per frame, int64[b, T, L]."""
        if self.frame_captions is None:
            return None
        texts: list[str] = []
        for row in rows:
            of_video = self.frame_captions[self.videos[row].video_id]
            texts += [*of_video, *[""] * (frames - len(of_video))]
        return self.tokenize(texts).unflatten(0, (len(rows), frames))

    def _tokens(
        self, rows: Ints, captions: Ints, parts: list[slice], local: Ints, owner: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """This process's tokens, int64[c, L], and ``same_text`` of the whole batch."""
        whole = np.concatenate([np.arange(len(rows))[part] for part in parts])
        chosen = whole if self.find_shared else local
        drawn = zip(rows[chosen], captions[chosen], strict=True)
        tokens = self.tokenize([self.videos[row].captions[c] for row, of_video in drawn for c in of_video if c >= 0])
        if not self.find_shared:
            return tokens, None
        before = sum(int((captions[part] >= 0).sum()) for part in parts[: self.local.start])
        here = int((captions[local] >= 0).sum())
        # The texts of other processes count too, so every process finds the same.
        return tokens[before : before + here], shared_texts(tokens, owner)

    def _frames(self, epoch: int, rows: Ints) -> tuple[Tensor, Tensor]:
        ids = [self.videos[row].video_id for row in rows]
        augment, seed = self.augment, self.plan.seed
        if augment is None:
            return self.reader.batch(ids, staging=self._staging)
        # One draw per video and epoch, whatever batch, process or attempt the video is in.
        draws = dict(zip(ids, rows.tolist(), strict=True))

        def view(name: str, clip: Tensor) -> Tensor:
            return augment(clip, np.random.default_rng([seed, epoch, draws[name], AUGMENTATION]))

        return self.reader.batch(ids, view, self._staging)

    def _epoch(self, number: int) -> Epoch:
        if self._current is None or self._current[0] != number:
            self._current = (number, self.plan.epoch(number))
        return self._current[1]


def training_videos(store: FrameStore, settings: TrainingSettings) -> list[Video]:
    """The decoded videos of the train split.

    Raises:
        TrainingError: There are no videos, they do not make up the batches of the settings (:func:`check_sizes`), or
            ``cache_frozen`` is combined with augmentation.
    """
    videos = split_videos(store, "train")
    if not videos:
        untold = store.manifest.is_only_searched
        raise TrainingError(
            "no training videos",
            where=store.uri,
            expected="a decoded train split",
            cure="the collection has no captions: describe its videos in captions.csv (columns video, caption), "
            "and run ingest again"
            if untold
            else None,
        )
    check_sizes(len(videos), settings)
    if settings.cache_frozen and settings.augmentation != "none":
        raise TrainingError(
            "cache_frozen cannot be used with augmentation",
            where="training.cache_frozen",
            found=f"true with augmentation: {settings.augmentation}",
            expected="cache_frozen: false, or augmentation: none",
        )
    return videos


def make_loader(
    method: Method,
    store: FrameStore,
    settings: TrainingSettings,
    seed: int,
    reader: FrameReader,
    micro_batches: int,
    frame_captions: FrameCaptions | None = None,
) -> Loader:
    """The loader of this process.

    Args:
        method, store, reader: What to read, and for which input.
        settings: What decides the batches.
        seed: Fixes batches, captions and crops.
        micro_batches: The passes of a batch (:func:`components.training.passes.divide`).
        frame_captions: A caption of every frame, for a method that needs them.

    Raises:
        TrainingError: As :func:`training_videos`, or the number of processes does not divide the micro-batches.
    """
    videos = training_videos(store, settings)
    backbone, words = method.backbone, method.words
    rank, world = rank_and_world()
    apart = settings.equal_captions != "negatives"
    hard = settings.batching == "hard"
    if not apart and rank == 0:
        warn_of_repeats(videos)
    plan = BatchPlan(
        caption_counts=[len(video.captions) for video in videos],
        batch_size=settings.batch_size,
        seed=seed,
        batching=settings.batching,
        hard_group=settings.hard_group,
        neighbours=caption_embeddings(method, videos) if hard else None,
        repeated=repeated_captions(videos, lambda texts: backbone.tokenize(texts, words)) if hard and apart else None,
        captions_per_video=settings.captions_per_video,
        last_batch=settings.last_batch,
    )
    spec = backbone.spec
    crops = partial(crop_flip, side=spec.image_size, interpolation=spec.interpolation)
    return Loader(
        plan=plan,
        videos=videos,
        reader=reader,
        tokenize=lambda texts: backbone.tokenize(texts, words),
        rank=rank,
        world=world,
        micro_batches=micro_batches,
        augment=crops if settings.augmentation == "crop_flip" else None,
        device=next(method.parameters()).device,
        find_shared=apart,
        frame_captions=frame_captions,
    )
