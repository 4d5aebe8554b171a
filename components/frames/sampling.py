"""Which frames stand for a video: pure functions of the number of frames and their times.

A video with fewer frames than asked for gives all it has, in order; the mask that marks the missing ones is made
when videos are put into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from components.frames.decoders.base import Choose


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


# Values of frames.sampling in params.yaml.
RULES: dict[str, Callable[[int, int], list[int]]] = {"uniform": linspace_indices, "segment_center": segment_center}


def chooser(rule: str, count: int, start_seconds: float | None, end_seconds: float | None) -> Choose:
    """A decoder's ``choose`` for one video.

    Args:
        rule: key of :data:`RULES`.
        count: frames wanted.
        start_seconds, end_seconds: half-open span that frames are taken from; None is the file's own start or end.
    """
    return partial(_choose, RULES[rule], count, start_seconds, end_seconds)


def _choose(
    rule: Callable[[int, int], list[int]],
    count: int,
    start_seconds: float | None,
    end_seconds: float | None,
    times: Sequence[float],
) -> list[int]:
    low = float("-inf") if start_seconds is None else start_seconds
    high = float("inf") if end_seconds is None else end_seconds
    inside = [index for index, time in enumerate(times) if low <= time < high]
    return [inside[index] for index in rule(len(inside), count)]
