"""Stored frames as batches of one shape, decoded by several threads, and kept in memory while they fit.

Frames are decoded to where the batch is, and their colours stay interleaved as JPEG has them: the batch is a view of
``uint8[B, T, S, S, 3]``. :meth:`components.backbones.clip.Backbone.normalize` puts the colours apart, when it makes
floats of them anyway.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.errors import DataError
from components.frames.checks import CURE
from components.frames.jpeg import decode_frames, frames_shape
from components.frames.staging import Staging
from components.frames.store import FrameStore

# Turns a video's id and frames, uint8[t, 3, H, W], into uint8[t, 3, S, S].
View = Callable[[str, Tensor], Tensor]


class FrameReader:
    """Reads videos of a frame store as ``uint8[B, T, 3, S, S]``.

    The result does not depend on the number of threads: each video is decoded by one of them into its row.

    Args:
        store: The JPEG frames.
        resize: ``uint8[t, 3, H, W] -> uint8[t, 3, S, S]``, the first half of the backbone's preprocessing. It
            returns frames of S x S pixels as they are.
        frames: T. Shorter videos are padded with black frames that the mask marks as absent.
        cache_mib: Memory for decoded frames. Once it is full nothing is evicted: an epoch visits every video once, so
            evicting the least recent video would evict the one that is needed next.
        threads: Threads that decode. JPEG decoding releases the interpreter's lock.
    """

    def __init__(
        self,
        store: FrameStore,
        resize: Callable[[Tensor], Tensor],
        frames: int,
        cache_mib: int,
        threads: int = 1,
    ) -> None:
        self.store = store
        self.resize = resize
        self.frames = frames
        self._free_bytes = cache_mib * 2**20
        # The key holds whether the frames are resized: a view starts from the frames as stored.
        self._cache: dict[tuple[str, bool], Tensor] = {}
        self._scratch = _Scratch()
        self._pool = None
        if threads > 1:
            # PyTorch's own threads would multiply with these.
            self._pool = ThreadPoolExecutor(threads, "decode", torch.set_num_threads, (1,))

    def batch(
        self, ids: Sequence[str], view: View | None = None, staging: Staging | None = None
    ) -> tuple[Tensor, Tensor]:
        """The videos in the order asked.

        Args:
            ids: B video ids, which may repeat.
            view: Takes the place of ``resize`` for each video. Its result is not cached, the frames are.
            staging: Where the frames are decoded to; ordinary memory if None.

        Returns:
            frames ``uint8[B, T, 3, S, S]`` and mask ``bool[B, T]``, true where a frame is real.

        Raises:
            DataError: A video is not in the store, or has no frame or more than T.
        """
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(ids):
            rows.setdefault(name, []).append(row)
        work = self._work(list(rows), resized=view is None)
        mask = torch.zeros(len(ids), self.frames, dtype=torch.bool)
        if (first := next(work, None)) is None:
            return torch.zeros(0, self.frames, 3, 0, 0, dtype=torch.uint8), mask
        # The first video's result sets the size of the batch.
        start = self._clip(*first, view, None)
        side = start[1].shape[-1]
        frames = (staging or Staging()).take((len(ids), self.frames, side, side, 3))

        def one(name: str, jpegs: Sequence[bytes] | None, done: tuple[Tensor | None, Tensor] | None = None) -> None:
            row, *others = rows[name]
            kept[name], shown = done or self._clip(name, jpegs, view, frames[row])
            count = len(shown)
            place = frames[row, :count].permute(0, 3, 1, 2)
            if shown.data_ptr() != place.data_ptr():
                place.copy_(shown)
            frames[row, count:] = 0
            for other in others:
                frames[other] = frames[row]
            mask[rows[name], :count] = True

        kept: dict[str, Tensor | None] = dict.fromkeys(rows)
        one(*first, start)
        if self._pool is None:
            for name, jpegs in work:
                one(name, jpegs)
        else:
            for future in [self._pool.submit(one, name, jpegs) for name, jpegs in work]:
                future.result()
        self._keep({(name, view is None): clip for name, clip in kept.items() if clip is not None})
        return frames.permute(0, 1, 4, 2, 3), mask

    def _work(self, names: Sequence[str], resized: bool) -> Iterator[tuple[str, Sequence[bytes] | None]]:
        """The videos and their JPEGs, None where the frames are in the cache. Those come first."""
        cached = [name for name in names if (name, resized) in self._cache]
        missing = [name for name in names if (name, resized) not in self._cache]
        return chain(
            ((name, None) for name in cached), ((video.video_id, video.frames) for video in self.store.read(missing))
        )

    def _clip(
        self, name: str, jpegs: Sequence[bytes] | None, view: View | None, place: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """A video's frames to keep, uint8[t, 3, H, W] or None, and those of the batch, uint8[t, 3, S, S].

        Args:
            name: The video.
            jpegs: Its frames. None if they are in the cache.
            view: As for :meth:`batch`.
            place: uint8[T, S, S, 3], where the shown frames may be decoded to.
        """
        if jpegs is None:
            stored, lasting = self._cache[name, view is None], True
        else:
            stored, lasting = self._decode(name, jpegs, view is None, place)
        return stored if lasting else None, stored if view is None else view(name, stored)

    def _keep(self, clips: Mapping[tuple[str, bool], Tensor]) -> None:
        """Caches clips, in the order of the batch, as long as there is room."""
        for key, clip in clips.items():
            if key not in self._cache and clip.nbytes <= self._free_bytes:
                self._free_bytes -= clip.nbytes
                self._cache[key] = clip

    def _decode(self, name: str, jpegs: Sequence[bytes], resized: bool, place: Tensor | None) -> tuple[Tensor, bool]:
        """The frames, and whether their memory is theirs alone, so that they may be kept."""
        if not 0 < len(jpegs) <= self.frames:
            task = self.store.card.task
            raise DataError(
                "the store has more frames of a video than the method takes",
                where=name,
                found=len(jpegs),
                expected=f"1 to {self.frames} frames",
                cure=f"set tasks.{task}.frames to {self.frames} and run ingest for {task} again, "
                f"or take an adapter that was trained with {self.store.card.settings.frames} frames",
            )
        try:
            clip, lasting = self._pictures(jpegs, resized, place)
        except DataError as error:
            raise DataError(str(error), where=f"{name} ({self.store.place(name)})", cure=CURE) from None
        clip = self.resize(clip) if resized else clip
        # A crop would keep the memory of the whole frames.
        return clip.clone() if lasting and clip.nbytes < clip.untyped_storage().nbytes() else clip, lasting

    def _pictures(self, jpegs: Sequence[bytes], resized: bool, place: Tensor | None) -> tuple[Tensor, bool]:
        shape = frames_shape(jpegs)
        lasting = math.prod(shape) <= self._free_bytes
        if lasting:
            out = None
        elif resized and place is not None and place.shape[1:] == shape[1:]:
            out = place[: len(jpegs)].numpy()
        else:
            out = self._scratch.take(shape)
        return torch.from_numpy(decode_frames(jpegs, out)).permute(0, 3, 1, 2), lasting


class _Scratch(threading.local):
    """Memory of each thread for one video at a time. Fresh memory costs as much time as a third of the decoding."""

    def __init__(self) -> None:
        self._memory = np.empty(0, dtype=np.uint8)

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """``uint8`` memory of this shape. It is valid until the next call in this thread."""
        size = math.prod(shape)
        if self._memory.size < size:
            self._memory = np.empty(size, dtype=np.uint8)
        return self._memory[:size].reshape(shape)
