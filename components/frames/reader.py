"""Stored frames as batches of one shape. Decoded and resized frames are kept in memory while they fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from components.errors import DataError
from components.frames.jpeg import decode_frames
from components.frames.store import FrameStore

# Makes a view of one video from its id and frames: uint8[t, 3, H, W] -> uint8[t, 3, S, S].
View = Callable[[str, Tensor], Tensor]


class FrameReader:
    """Reads videos of a frame store as ``uint8[B, T, 3, S, S]``.

    Args:
        store: The store of JPEG frames.
        resize: ``uint8[t, 3, H, W] -> uint8[t, 3, S, S]``, the first half of the backbone's preprocessing.
        frames: ``T``. Shorter videos are padded with black frames, which the mask marks as padding.
        cache_mib: The memory for decoded frames. A full cache evicts nothing. An epoch visits every video once, so the
            least recently used video is the one that is needed next.
    """

    def __init__(self, store: FrameStore, resize: Callable[[Tensor], Tensor], frames: int, cache_mib: int) -> None:
        self.store = store
        self.resize = resize
        self.frames = frames
        self._free_bytes = cache_mib * 2**20
        # The key is the video and whether it is resized: a view starts from the frames as stored.
        self._cache: dict[tuple[str, bool], Tensor] = {}

    def batch(self, ids: Sequence[str], view: View | None = None) -> tuple[Tensor, Tensor]:
        """Reads videos in the order of ``ids``.

        Args:
            ids: ``B`` video ids, not necessarily different.
            view: Replaces ``resize``, one video at a time. Its result is not cached, but the stored frames are.

        Returns:
            The frames ``uint8[B, T, 3, S, S]`` and the mask ``bool[B, T]``, which is true for frames that are not
            padding.

        Raises:
            DataError: A video is not in the store, or has no frame or more than ``T``.
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
