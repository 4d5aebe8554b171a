"""What a decoder is: a function from a file and a choice of frames to those frames.

A decoder runs in a child process, so it may crash or hang. It must not import torch or Ray, since the process starts
again after every crash. It gets a regular, non-empty file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# If a larger share of the stored frames shows damage, or of the packets is refused, too little of the video is left.
MAX_DAMAGED_SHARE = 0.5

# Takes the times in seconds of all frames of a file, ascending. Returns the numbers of the wanted frames, ascending.
Choose = Callable[[Sequence[float]], list[int]]


@dataclass(frozen=True)
class DecodedFrames:
    """The chosen frames of one file.

    Args:
        frames: ``uint8[H, W, 3]`` each, RGB, in the file's size, turned and mirrored as the file asks.
        indices: Their numbers in the file, counting shown frames from 0.
        timestamps_seconds: When each is shown. The file's first shown frame is at 0.
        source_frames: Frames in the file.
        fps: Mean frame rate.
        duration_seconds: Length of the file's video.
        decoder: Name and version, such as ``decord 0.6.0``.
        corrupt_frames: How many frames the decoder flagged as damaged, among all that it decoded for the chosen ones,
            since damage spreads from frame to frame. None if it cannot tell.
        damaged_frames: How many of the chosen frames show damage: the decoder flagged them, or the key frame that they
            are built on. 0 if it cannot tell.
    """

    frames: Sequence[NDArray[np.uint8]]
    indices: Sequence[int]
    timestamps_seconds: Sequence[float]
    source_frames: int
    fps: float
    duration_seconds: float
    decoder: str
    corrupt_frames: int | None = None
    damaged_frames: int = 0


class DecodeError(Exception):
    """A video without usable frames.

    Args:
        reason: A key of :data:`components.frames.schema.REASONS`.
        detail: Type of the underlying exception, or numbers of the file. Never a library's text, which may contain
            times and addresses.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Decoder(Protocol):
    """A decoder. It raises DecodeError. Any other exception becomes the reason ``decode_error``."""

    def __call__(self, path: str, choose: Choose, side: int | None = None) -> DecodedFrames:
        """Decodes the chosen frames of ``path``.

        Args:
            path: The video's file.
            choose: Picks the frames by their times.
            side: If given, frames are squeezed to squares of that many pixels, for a first look.
        """
        ...
