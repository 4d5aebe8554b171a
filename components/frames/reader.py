"""Stored frames as batches of one shape, with the decoded and resized frames kept in memory while they fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from components.errors import DataError
from components.frames.jpeg import decode_frames
from components.frames.store import FrameStore

# Of a video by its id: its frames uint8[t, 3, H, W] -> uint8[t, 3, S, S].
View = Callable[[str, Tensor], Tensor]


class FrameReader:
    """Reads videos of a frame store as ``uint8[B, T, 3, S, S]``.

    Args:
        store: where the JPEG frames are.
        resize: uint8[t, 3, H, W] -> uint8[t, 3, S, S], the backbone's first half of preprocessing.
        frames: ``T``; shorter videos are padded with black frames that the mask marks as absent.
        cache_mib: memory for decoded frames. Once full, nothing is evicted: an epoch visits every video once, so
            throwing the least recent one away would throw away what is needed next.
    """

    def __init__(self, store: FrameStore, resize: Callable[[Tensor], Tensor], frames: int, cache_mib: int) -> None:
        self.store = store
        self.resize = resize
        self.frames = frames
        self._free_bytes = cache_mib * 2**20
        # By video, and whether it is resized: a view of its own starts from the frames as stored.
        self._cache: dict[tuple[str, bool], Tensor] = {}

    def batch(self, ids: Sequence[str], view: View | None = None) -> tuple[Tensor, Tensor]:
        """The videos in the order asked.

        Args:
            ids: ``B`` video ids, not necessarily different.
            view: takes the place of ``resize``, for one video at a time; its result is not cached, the frames are.

        Returns:
            frames uint8[B, T, 3, S, S] and mask bool[B, T], true where a frame is real.

        Raises:
            DataError: a video is not in the store, or has no frame or more than ``T``.
        """
        resized = view is None
        found = {name: self._cache[name, resized] for name in ids if (name, resized) in self._cache}
        missing = [name for name in dict.fromkeys(ids) if name not in found]
        if missing:
            for video in self.store.read(missing):
                found[video.video_id] = self._decode(video.video_id, video.frames, resized)
        if view is not None:
            found = {name: view(name, clip) for name, clip in found.items()}
        side = next(iter(found.values())).shape[-1] if found else 0
        frames = torch.zeros(len(ids), self.frames, 3, side, side, dtype=torch.uint8)
        mask = torch.zeros(len(ids), self.frames, dtype=torch.bool)
        for row, name in enumerate(ids):
            clip = found[name]
            frames[row, : len(clip)] = clip
            mask[row, : len(clip)] = True
        return frames, mask

    def _decode(self, name: str, jpegs: Sequence[bytes], resized: bool) -> Tensor:
        if not 0 < len(jpegs) <= self.frames:
            raise DataError(
                "stored frames do not fit the task",
                where=name,
                found=len(jpegs),
                expected=f"1 to {self.frames} frames",
                cure="run ingest again with these settings",
            )
        clip = torch.from_numpy(decode_frames(jpegs)).permute(0, 3, 1, 2)
        clip = (self.resize(clip) if resized else clip).contiguous()
        if clip.nbytes <= self._free_bytes:
            self._free_bytes -= clip.nbytes
            self._cache[name, resized] = clip
        return clip
