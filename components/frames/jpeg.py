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


def decode_frames(jpegs: Sequence[bytes]) -> NDArray[np.uint8]:
    """Decodes the stored frames of one video.

    Args:
        jpegs: The JPEG bytes of at least one frame, all of one size.

    Returns:
        ``uint8[T, H, W, 3]``, RGB.

    Raises:
        DataError: There are no frames, the JPEG data is damaged, or the frames are huge or differ in size.
    """
    if not jpegs:
        raise DataError("no frames to decode", expected="at least one JPEG")
    try:
        # The headers come first: a few bytes may state a size that fills the memory.
        sizes = {simplejpeg.decode_jpeg_header(jpeg)[:2] for jpeg in jpegs}
        if any(height * width > MOST_PIXELS for height, width in sizes):
            raise DataError("huge JPEG", found=max(sizes), expected=f"at most {MOST_PIXELS} pixels")
        if len(sizes) > 1:
            raise DataError("frames of one video differ in size", found=sorted(sizes))
        return np.stack([simplejpeg.decode_jpeg(jpeg, colorspace="RGB") for jpeg in jpegs])
    except ValueError as error:
        raise DataError("damaged JPEG", cure=str(error)) from None
