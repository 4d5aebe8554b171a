"""Stored frames as batches of one shape, decoded by several threads, and kept in memory while they fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import torch
from torch import Tensor

from components.errors import DataError
from components.frames.checks import CURE
from components.frames.jpeg import decode_frames
from components.frames.staging import Staging
from components.frames.store import FrameStore

# Turns a video's id and frames, uint8[t, 3, H, W], into uint8[t, 3, S, S].
View = Callable[[str, Tensor], Tensor]


class FrameReader:
    """Reads videos of a frame store as ``uint8[B, T, 3, S, S]``.

    The result does not depend on the number of threads: each video is decoded by one of them into its row.

    Args:
        store: The JPEG frames.
        resize: ``uint8[t, 3, H, W] -> uint8[t, 3, S, S]``, the first half of the backbone's preprocessing.
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
        resized = view is None
        cached = [name for name in rows if (name, resized) in self._cache]
        missing = [name for name in rows if (name, resized) not in self._cache]
        work: Iterator[tuple[str, Sequence[bytes] | None]] = chain(
            ((name, None) for name in cached), ((video.video_id, video.frames) for video in self.store.read(missing))
        )

        def stored(name: str, jpegs: Sequence[bytes] | None) -> Tensor:
            return self._cache[name, resized] if jpegs is None else self._decode(name, jpegs, resized)

        def shown(name: str, clip: Tensor) -> Tensor:
            return clip if view is None else view(name, clip)

        mask = torch.zeros(len(ids), self.frames, dtype=torch.bool)
        if (first := next(work, None)) is None:
            return torch.zeros(0, self.frames, 3, 0, 0, dtype=torch.uint8), mask
        clips = {first[0]: stored(*first)}
        start = shown(first[0], clips[first[0]])
        frames = (staging or Staging()).take((len(ids), self.frames, *start.shape[1:]))

        def place(name: str, clip: Tensor) -> None:
            for row in rows[name]:
                frames[row, : len(clip)] = clip
                frames[row, len(clip) :] = 0
                mask[row, : len(clip)] = True

        def one(name: str, jpegs: Sequence[bytes] | None) -> Tensor:
            clip = stored(name, jpegs)
            place(name, shown(name, clip))
            return clip

        place(first[0], start)
        if self._pool is None:
            clips.update((name, one(name, jpegs)) for name, jpegs in work)
        else:
            running = [(name, self._pool.submit(one, name, jpegs)) for name, jpegs in work]
            clips.update((name, future.result()) for name, future in running)
        self._keep({(name, resized): clip for name, clip in clips.items()})
        return frames, mask

    def _keep(self, clips: Mapping[tuple[str, bool], Tensor]) -> None:
        """Caches clips, in the order of the batch, as long as there is room."""
        for key, clip in clips.items():
            if key not in self._cache and clip.nbytes <= self._free_bytes:
                self._free_bytes -= clip.nbytes
                self._cache[key] = clip

    def _decode(self, name: str, jpegs: Sequence[bytes], resized: bool) -> Tensor:
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
            pictures = decode_frames(jpegs)
        except DataError as error:
            raise DataError(str(error), where=f"{name} ({self.store.place(name)})", cure=CURE) from None
        clip = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        return (self.resize(clip) if resized else clip).contiguous()
