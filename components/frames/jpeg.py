"""Frames to JPEG bytes and back.

Subsampled chroma is smaller and faster to read, but costs 5 dB at saturated edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from components.errors import DataError

# The most pixels of a stored frame: 100 MB in memory. Ingest stores at most a tenth of it.
MOST_PIXELS = 2**25


def encode_frames(frames: NDArray[np.uint8], quality: int, chroma: int = 444) -> list[bytes]:
    """Encodes each frame as a JPEG.

    Args:
        frames: ``uint8[T, H, W, 3]``, RGB.
        quality: The JPEG quality, 1 to 100.
        chroma: 444 for full chroma resolution, or 420 for half of it in both directions.
    """
    return [
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(frame), quality=quality, colorspace="RGB", colorsubsampling=str(chroma)
        )
        for frame in frames
    ]


def frames_shape(jpegs: Sequence[bytes]) -> tuple[int, int, int, int]:
    """``(T, H, W, 3)`` of the stored frames of one video, from the header of the first.

    Args:
        jpegs: The JPEG bytes of at least one frame.

    Raises:
        DataError: There are no frames, or the header is damaged or states a huge size.
    """
    if not jpegs:
        raise DataError("no frames to decode", expected="at least one JPEG")
    try:
        height, width = simplejpeg.decode_jpeg_header(jpegs[0])[:2]
    except ValueError as error:
        raise DataError("damaged JPEG", cure=str(error)) from None
    # A few bytes may state a size that fills the memory.
    if height * width > MOST_PIXELS:
        raise DataError("huge JPEG", found=(height, width), expected=f"at most {MOST_PIXELS} pixels")
    return len(jpegs), height, width, 3


def decode_frames(jpegs: Sequence[bytes], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Decodes the stored frames of one video.

    Args:
        jpegs: The JPEG bytes of at least one frame, all of one size.
        out: Where to write, contiguous and of the shape :func:`frames_shape`. None allocates memory.

    Returns:
        ``uint8[T, H, W, 3]``, RGB.

    Raises:
        DataError: As :func:`frames_shape`, or a JPEG is damaged, or the frames differ in size.
    """
    out = np.empty(frames_shape(jpegs), dtype=np.uint8) if out is None else out
    for jpeg, picture in zip(jpegs, out, strict=True):
        try:
            # Never more than the memory of one picture of this size.
            size = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=picture).shape
        except ValueError as error:
            size = _stated_size(jpeg)
            if size in (None, picture.shape):
                raise DataError("damaged JPEG", cure=str(error)) from None
        if size != picture.shape:
            raise DataError("frames of one video differ in size", found=sorted({size[:2], picture.shape[:2]}))
    return out


def _stated_size(jpeg: bytes) -> tuple[int, int, int] | None:
    """``(H, W, 3)`` as the header says, or None if it is damaged."""
    try:
        height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
    except ValueError:
        return None
    return height, width, 3
