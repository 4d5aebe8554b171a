"""What a decoder is: a function from a file and a choice of frames to those frames.

A decoder runs in a child process of its own, so it may crash or hang, but it must not import torch or Ray: the
process is started anew after every crash. It gets a regular, non-empty file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Frame times in seconds, ascending, of every frame of the file -> numbers of the frames that are wanted, ascending.
Choose = Callable[[Sequence[float]], list[int]]


@dataclass(frozen=True)
class DecodedFrames:
    """The chosen frames of one file.

    Args:
        frames: uint8[H, W, 3] each, RGB, rotated as the file asks, of the file's own size.
        indices: their numbers in the file, counting shown frames from 0.
        timestamps_seconds: when each is shown, from the file's first shown frame on.
        source_frames: frames in the file.
        fps: mean frame rate.
        duration_seconds: length of the file's video.
        decoder: name and version, such as ``decord 0.6.0``.
        corrupt_frames: frames that the decoder itself flagged as damaged, of all it decoded on its way to the chosen
            ones, since damage spreads from frame to frame; None if it cannot tell.
    """

    frames: Sequence[NDArray[np.uint8]]
    indices: Sequence[int]
    timestamps_seconds: Sequence[float]
    source_frames: int
    fps: float
    duration_seconds: float
    decoder: str
    corrupt_frames: int | None = None


class DecodeError(Exception):
    """A video that has no frames to give.

    Args:
        reason: a key of :data:`components.frames.schema.REASONS`.
        detail: the type of the exception behind it, or figures of the file; no text of a library, which may hold times
            and addresses.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Decoder(Protocol):
    """A decoder. Raises DecodeError; anything else it raises becomes the reason ``decode_error``."""

    def __call__(self, path: str, choose: Choose, side: int | None = None) -> DecodedFrames:
        """The chosen frames of ``path``; with ``side`` squeezed to squares of that many pixels, for a first look."""
        ...
