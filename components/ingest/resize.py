"""The one resize filter of the store: PIL bicubic on RGB, the same as in CLIP's preprocessing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def fitted_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Returns width and height with ``short_side`` as the short one. The long one is truncated, as in torchvision.

    Rounding it instead would shift every frame by half a pixel relative to CLIP's preprocessing.
    """
    short, long = min(width, height), max(width, height)
    new_long = int(short_side * long / short)
    return (short_side, new_long) if width <= height else (new_long, short_side)


def resize_frames(frames: Sequence[NDArray[np.uint8]], short_side: int) -> NDArray[np.uint8]:
    """Resizes frames without cropping. The first frame's aspect ratio decides the size of all.

    Args:
        frames: ``uint8[H, W, 3]`` each, at least one.
        short_side: Short side of the result in pixels.

    Returns:
        ``uint8[T, H', W', 3]``.
    """
    height, width = frames[0].shape[:2]
    size = fitted_size(width, height, short_side)
    return np.stack([resize_frame(frame, size) for frame in frames])


def resize_frame(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resizes one frame ``uint8[H, W, 3]`` to ``size``, its width and height."""
    if (frame.shape[1], frame.shape[0]) == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
