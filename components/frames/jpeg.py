"""Frames to JPEG bytes and back. Subsampled colours are smaller and faster to read; saturated edges lose 5 dB to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from components.errors import DataError


def encode_frames(frames: NDArray[np.uint8], quality: int, chroma: int = 444) -> list[bytes]:
    """JPEG of every frame.

    Args:
        frames: uint8[T, H, W, 3], RGB.
        quality: 1 to 100.
        chroma: 444 for colours in full resolution, 420 for half of it each way.
    """
    return [
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(frame), quality=quality, colorspace="RGB", colorsubsampling=str(chroma)
        )
        for frame in frames
    ]


def decode_frames(jpegs: Sequence[bytes]) -> NDArray[np.uint8]:
    """RGB pictures of the stored frames of one video.

    Args:
        jpegs: JPEG bytes of frames of one size, at least one.

    Returns:
        uint8[T, H, W, 3].

    Raises:
        DataError: no frames, damaged JPEG data or frames of several sizes.
    """
    if not jpegs:
        raise DataError("no frames to decode", expected="at least one JPEG")
    try:
        pictures = [simplejpeg.decode_jpeg(jpeg, colorspace="RGB") for jpeg in jpegs]
    except ValueError as error:
        raise DataError("damaged JPEG", cure=str(error)) from None
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise DataError("frames of one video differ in size", found=sorted(shapes))
    return np.stack(pictures)
