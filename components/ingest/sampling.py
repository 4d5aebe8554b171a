"""Which frames represent a video: pure functions of the number and times of its frames, or of small pictures of them.

If a video has fewer frames than asked for, all of them are taken, in order. Batching makes the mask that marks the
missing ones.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from components.ingest.decoders.base import Choose


def linspace_indices(total: int, count: int) -> list[int]:
    """Picks frames at equal distances from the first to the last, both included. Numbers are truncated.

    Source: CLIP4Clip's data loaders, ``slice_framepos`` 2, which pick from one frame per second.

    Args:
        total: Frames of the video, at least 0.
        count: Frames wanted, at least 1.
    """
    if total <= count:
        return list(range(total))
    return [int(index) for index in np.linspace(0, total - 1, num=count, dtype=int)]


def floor_indices(total: int, count: int) -> list[int]:
    """Picks frames ``floor(i * total / count)``. The first frame is included, the last one is not.

    Source: MV-Adapter's data loader, ``slice_framepos`` 2.
    """
    if total <= count:
        return list(range(total))
    return [index * total // count for index in range(count)]


def segment_center(total: int, count: int) -> list[int]:
    """Picks the middle frame of each of ``count`` segments of equal length.

    Source: the released base VoP, sampling ``uniform``.
    """
    count = min(total, count)
    bounds = [index * total // count for index in range(count + 1)] if count else []
    return [(start + end - 1) // 2 for start, end in pairwise(bounds)]


def segment_random(total: int, count: int, seed: str) -> list[int]:
    """Picks a random frame of each of ``count`` segments of equal length, always the same for the same ``seed``.

    Source: X-Pool's and VoP's sampling ``rand``. Theirs draws again in every epoch, ours once, when frames are stored.
    """
    count = min(total, count)
    bounds = [index * total // count for index in range(count + 1)] if count else []
    digest = hashlib.sha256(seed.encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return [int(generator.integers(start, end)) for start, end in pairwise(bounds)]


def per_second(total: int, fps: float, rate: int = 1) -> list[int]:
    """Picks ``rate`` frames of every second, on a grid of whole frames.

    Source: CLIP4Clip's extractor. It truncates the frame rate to a whole number, so at 29.97 fps the grid drifts away
    from the seconds. Below one frame per second the release divides by zero. Here every frame is taken.

    Args:
        total: Frames of the video.
        fps: Mean frame rate.
        rate: Frames per second wanted.
    """
    whole = max(1, int(fps))
    step = max(1, whole // rate)
    starts = range(0, total, whole)
    return [start + k * step for start in starts for k in range(min(rate, whole)) if start + k * step < total]


def mean_fps(times: Sequence[float]) -> float:
    """Returns the mean frame rate of frames shown at ``times`` (seconds, ascending). It is 0 for fewer than two."""
    if len(times) < 2 or times[-1] <= times[0]:
        return 0.0
    return round((len(times) - 1) / (times[-1] - times[0]), 3)


def _clip4clip(times: Sequence[float], count: int, seed: str) -> list[int]:
    """Picks one frame per second, then equal distances with both ends, as CLIP4Clip's loaders do."""
    seconds = per_second(len(times), mean_fps(times))
    return [seconds[index] for index in linspace_indices(len(seconds), count)]


def _mv_adapter(times: Sequence[float], count: int, seed: str) -> list[int]:
    """Picks one frame per second, then ``floor(i * n / count)``, as MV-Adapter's extractor and loader do."""
    seconds = per_second(len(times), mean_fps(times))
    return [seconds[index] for index in floor_indices(len(seconds), count)]


# A rule takes the frames' times in seconds, the number of frames wanted, and the video's name. It returns the numbers
# of the chosen frames.
Rule = Callable[[Sequence[float], int, str], list[int]]

# The values of frames.sampling in params.yaml that need only the times.
RULES: dict[str, Rule] = {
    "uniform": lambda times, count, seed: linspace_indices(len(times), count),
    "segment_center": lambda times, count, seed: segment_center(len(times), count),
    "segment_random": lambda times, count, seed: segment_random(len(times), count, seed),
    "clip4clip": _clip4clip,
    "mv_adapter": _mv_adapter,
}

# The value that compares pictures first, and how many it compares per wanted frame.
ADAPTIVE = "adaptive"
CANDIDATES = 8


def chooser(rule: str, count: int, start_seconds: float | None, end_seconds: float | None, seed: str = "") -> Choose:
    """Returns a decoder's ``choose`` for one video.

    Args:
        rule: A key of :data:`RULES`.
        count: Frames wanted.
        start_seconds, end_seconds: The half-open span to take frames from. None means the file's start or end.
        seed: The video's name, for random rules.
    """
    return partial(_choose, RULES[rule], count, start_seconds, end_seconds, seed)


def _choose(
    rule: Rule,
    count: int,
    start_seconds: float | None,
    end_seconds: float | None,
    seed: str,
    times: Sequence[float],
) -> list[int]:
    # A span that ends before it starts has no frame.
    low = 0 if start_seconds is None else bisect_left(times, start_seconds)
    high = len(times) if end_seconds is None else max(low, bisect_left(times, end_seconds))
    return [low + index for index in rule(times[low:high], count, seed)]


def most_different(pictures: NDArray[np.uint8], count: int) -> list[int]:
    """Picks half of the frames at equal distances, and then the frames that differ most from the chosen ones.

    Frames at equal distances miss an event that is shorter than the distance. A frame that shows something that no
    other frame shows differs most of all, however short the event is.

    Args:
        pictures: ``uint8[N, S, S, 3]``, small pictures of the candidates. S is a multiple of 16.
        count: Frames wanted.

    Returns:
        Numbers of the chosen pictures, ascending, ``min(N, count)`` of them.
    """
    total = len(pictures)
    if total <= count:
        return list(range(total))
    cell = pictures.shape[1] // 16
    # Averages over cells hide coding noise and movements of one pixel.
    coarse = pictures.reshape(total, 16, cell, 16, cell, 3).mean(axis=(2, 4)).reshape(total, -1)
    chosen = segment_center(total, (count + 1) // 2)
    nearest = np.min([np.square(coarse - coarse[index]).sum(axis=1) for index in chosen], axis=0)
    while len(chosen) < count:
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.square(coarse - coarse[chosen[-1]]).sum(axis=1))
    return sorted(chosen)
