"""Which frames stand for a video: pure functions of the frames' number and times, or of small pictures of them.

A video with fewer frames than asked for gives all it has, in order; the mask that marks the missing ones is made
when videos are put into batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from components.ingest.decoders.base import Choose


def linspace_indices(total: int, count: int) -> list[int]:
    """Evenly spaced from the first frame to the last, both included, cut to whole numbers.

    Source: CLIP4Clip's data loaders, ``slice_framepos`` 2 (there on frames taken once a second).

    Args:
        total: frames there are, at least 0.
        count: frames wanted, at least 1.
    """
    if total <= count:
        return list(range(total))
    return [int(index) for index in np.linspace(0, total - 1, num=count, dtype=int)]


def floor_indices(total: int, count: int) -> list[int]:
    """``floor(i * total / count)``: starts at the first frame and never reaches the last.

    Source: MV-Adapter's data loader, ``slice_framepos`` 2.
    """
    if total <= count:
        return list(range(total))
    return [index * total // count for index in range(count)]


def segment_center(total: int, count: int) -> list[int]:
    """The middle frame of each of ``count`` segments of equal length.

    Source: the released base VoP, sampling ``uniform``.
    """
    count = min(total, count)
    bounds = [index * total // count for index in range(count + 1)] if count else []
    return [(start + end - 1) // 2 for start, end in pairwise(bounds)]


def segment_random(total: int, count: int, seed: str) -> list[int]:
    """A random frame of each of ``count`` segments of equal length, always the same for the same ``seed``.

    Source: X-Pool's and VoP's sampling ``rand``; there it draws anew at every epoch, here once, when frames are stored.
    """
    count = min(total, count)
    bounds = [index * total // count for index in range(count + 1)] if count else []
    digest = hashlib.sha256(seed.encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return [int(generator.integers(start, end)) for start, end in pairwise(bounds)]


def per_second(total: int, fps: float, rate: int = 1) -> list[int]:
    """``rate`` frames of every second, on a grid of whole frames.

    Source: CLIP4Clip's extractor: the frame rate is cut to a whole number, so that 29.97 fps drifts from the seconds;
    below one frame a second, where the release divides by zero, every frame is taken.

    Args:
        total: frames there are.
        fps: mean frame rate.
        rate: frames per second wanted.
    """
    whole = max(1, int(fps))
    step = max(1, whole // rate)
    starts = range(0, total, whole)
    return [start + k * step for start in starts for k in range(min(rate, whole)) if start + k * step < total]


def mean_fps(times: Sequence[float]) -> float:
    """Mean frame rate of frames shown at ``times`` (seconds, ascending); 0 for fewer than two."""
    if len(times) < 2 or times[-1] <= times[0]:
        return 0.0
    return round((len(times) - 1) / (times[-1] - times[0]), 3)


def _clip4clip(times: Sequence[float], count: int, seed: str) -> list[int]:
    """One frame a second, then evenly spaced with both ends: CLIP4Clip's loaders."""
    seconds = per_second(len(times), mean_fps(times))
    return [seconds[index] for index in linspace_indices(len(seconds), count)]


def _mv_adapter(times: Sequence[float], count: int, seed: str) -> list[int]:
    """One frame a second, then ``floor(i * n / count)``: MV-Adapter's frames and loader."""
    seconds = per_second(len(times), mean_fps(times))
    return [seconds[index] for index in floor_indices(len(seconds), count)]


# A rule: (times of the frames in seconds, frames wanted, name of the video) -> numbers of the chosen frames.
Rule = Callable[[Sequence[float], int, str], list[int]]

# The values of frames.sampling in params.yaml that need nothing but the times.
RULES: dict[str, Rule] = {
    "uniform": lambda times, count, seed: linspace_indices(len(times), count),
    "segment_center": lambda times, count, seed: segment_center(len(times), count),
    "segment_random": lambda times, count, seed: segment_random(len(times), count, seed),
    "clip4clip": _clip4clip,
    "mv_adapter": _mv_adapter,
}

# And the one that looks at the pictures first: frames per wanted frame that it looks at.
ADAPTIVE = "adaptive"
CANDIDATES = 8


def chooser(rule: str, count: int, start_seconds: float | None, end_seconds: float | None, seed: str = "") -> Choose:
    """A decoder's ``choose`` for one video.

    Args:
        rule: key of :data:`RULES`.
        count: frames wanted.
        start_seconds, end_seconds: half-open span that frames are taken from; None is the file's own start or end.
        seed: name of the video, for random rules.
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
    low = float("-inf") if start_seconds is None else start_seconds
    high = float("inf") if end_seconds is None else end_seconds
    inside = [index for index, time in enumerate(times) if low <= time < high]
    return [inside[index] for index in rule([times[index] for index in inside], count, seed)]


def most_different(pictures: NDArray[np.uint8], count: int) -> list[int]:
    """Half of the frames evenly spaced, the others those that look least like any chosen one (farthest first).

    Evenly spaced frames miss an event that is shorter than their distance; a frame that shows something no other shows
    is the farthest of all, however short it is.

    Args:
        pictures: ``uint8[N, S, S, 3]``, small pictures of the candidates; S is a multiple of 16.
        count: frames wanted.

    Returns:
        Numbers of the chosen pictures, ascending, ``min(N, count)`` of them.
    """
    total = len(pictures)
    if total <= count:
        return list(range(total))
    cell = pictures.shape[1] // 16
    # Averages over cells hide coding noise and movements of a pixel.
    coarse = pictures.reshape(total, 16, cell, 16, cell, 3).mean(axis=(2, 4)).reshape(total, -1)
    chosen = segment_center(total, (count + 1) // 2)
    nearest = np.min([np.square(coarse - coarse[index]).sum(axis=1) for index in chosen], axis=0)
    while len(chosen) < count:
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.square(coarse - coarse[chosen[-1]]).sum(axis=1))
    return sorted(chosen)
