"""What is checked before a video is stored: the file, and whatever a decoder returned for it."""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Sequence
from itertools import pairwise

from components.ingest.decoders.base import MAX_DAMAGED_SHARE, DecodedFrames, DecodeError

# How far a segment may extend beyond its file. Annotations round times up to whole seconds.
SPAN_TOLERANCE_SECONDS = 1.0

# A stored frame has a fixed short side. So this also limits the bytes of a row.
MAX_ASPECT = 16

# Times are rounded to 0.1 ms. decord's are float32.
TIME_TOLERANCE_SECONDS = 0.01


def check_file(path: str) -> None:
    """Refuses everything but a regular file with content. Opening a pipe would hang every decoder.

    Raises:
        DecodeError: missing_file, not_regular_file, empty_file or unreadable.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DecodeError("missing_file") from None
    except OSError as error:
        raise DecodeError("unreadable", errno.errorcode.get(error.errno or 0, "OSError")) from None
    except ValueError as error:
        raise DecodeError("unreadable", type(error).__name__) from None
    if not stat.S_ISREG(found.st_mode):
        raise DecodeError("not_regular_file")
    if found.st_size == 0:
        raise DecodeError("empty_file")


def check_span(end_seconds: float | None, duration_seconds: float) -> None:
    """Refuses a segment that extends beyond its file. Its annotations belong to another file, or another cut of it.

    Raises:
        DecodeError: outside_file.
    """
    if end_seconds is not None and end_seconds > duration_seconds + SPAN_TOLERANCE_SECONDS:
        detail = f"the segment ends at {end_seconds:g} s, the file at {duration_seconds:g} s"
        raise DecodeError("outside_file", detail)


def check_decoded(decoded: DecodedFrames, shape: tuple[int, int] | None = None) -> None:
    """Refuses frames that cannot be what the file shows, or that show too little.

    Args:
        decoded: The answer of a decoder.
        shape: Height and width of the first frame, if the answer has no pictures.

    Raises:
        DecodeError: no_frames, wrong_answer, damaged or extreme_shape.
    """
    count = len(decoded.frames)
    if not count:
        raise DecodeError("no_frames")
    if not len(decoded.indices) == len(decoded.timestamps_seconds) == count:
        raise DecodeError("wrong_answer", "frames, numbers and times differ in number")
    _check_times(decoded.timestamps_seconds, decoded.duration_seconds)
    if not (math.isfinite(decoded.fps) and decoded.fps >= 0):
        raise DecodeError("wrong_answer", f"{decoded.fps:g} frames per second")
    first, last = decoded.indices[0], decoded.indices[-1]
    if first < 0 or last >= decoded.source_frames or any(two <= one for one, two in pairwise(decoded.indices)):
        raise DecodeError("wrong_answer", f"frames {first} to {last} of {decoded.source_frames}")
    if decoded.damaged_frames > MAX_DAMAGED_SHARE * count:
        raise DecodeError("damaged", f"{decoded.damaged_frames} of the {count} frames")
    height, width = shape or decoded.frames[0].shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise DecodeError("extreme_shape", f"{width} x {height}")


def _check_times(times: Sequence[float], duration_seconds: float) -> None:
    if not math.isfinite(duration_seconds):
        raise DecodeError("wrong_answer", f"a length of {duration_seconds:g} s")
    if not all(map(math.isfinite, times)) or any(after < before for before, after in pairwise(times)):
        raise DecodeError("wrong_answer", "times that do not ascend")
    if times[0] < 0 or times[-1] > duration_seconds + TIME_TOLERANCE_SECONDS:
        raise DecodeError("wrong_answer", f"times {times[0]:g} to {times[-1]:g} s in {duration_seconds:g} s")
