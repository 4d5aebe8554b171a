"""What a decoder is: a function from a file and a choice of frames to those frames.

A decoder runs in a child process, so it may crash or hang. It must not import torch or Ray, since the process starts
again after every crash. It gets a regular, non-empty file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

# If a larger share of the stored frames shows damage, or of the packets is refused, too little of the video is left.
MAX_DAMAGED_SHARE = 0.5

# Takes the number and the picture of each chosen frame as soon as it is decoded, in the order of the numbers. A decoder
# that starts again asks the choice again first.
Take = Callable[[int, NDArray[np.uint8]], None]

# What is left of a picture that was taken.
TAKEN: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)

# Takes the times in seconds of all frames of a file, ascending. Returns the numbers of the wanted frames, ascending. A
# decoder that knows where the last frame ends gives them as :class:`FrameTimes`.
Choose = Callable[[Sequence[float]], list[int]]


class FrameTimes(list[float]):
    """When the frames of a file are shown, in seconds, ascending.

    Args:
        times: The times.
        end_seconds: Where the last frame ends.
    """

    def __init__(self, times: Iterable[float], end_seconds: float) -> None:
        super().__init__(times)
        self.end_seconds = end_seconds


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


class StreamingDecoder(Protocol):
    """A decoder that gives its frames away one by one, so that a file may have more of them than fit into memory."""

    def __call__(self, path: str, choose: Choose, side: int | None = None, take: Take | None = None) -> DecodedFrames:
        """As :class:`Decoder`. With ``take``, the frames of the answer are :data:`TAKEN`."""
        ...


def decode_into(decoder: Decoder, path: str, choose: Choose, take: Take) -> DecodedFrames:
    """Decodes a file once and gives its chosen frames to ``take``.

    A decoder without a parameter ``take`` holds all chosen frames of the file in memory at once.

    Returns:
        The answer of the decoder, with :data:`TAKEN` for each frame.
    """
    if "take" in inspect.signature(decoder).parameters:
        return cast(StreamingDecoder, decoder)(path, choose, take=take)
    decoded = decoder(path, choose)
    for index, frame in zip(decoded.indices, decoded.frames, strict=False):  # their numbers are checked afterwards
        take(index, frame)
    return replace(decoded, frames=[TAKEN] * len(decoded.frames))
