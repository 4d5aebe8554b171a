"""Spans of time: how far two overlap, which of several overlapping ones to keep, and where inside one to look.

All functions work on arrays and know neither files nor models, so that search and evaluation give the same spans.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

# Scores are compared as whole millionths, so that the rounding of a product decides nothing.
STEPS = 1_000_000


def overlaps(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of every span of ``one`` with every span of ``other``.

    Args:
        one: ``float64[N, 2]``, start and end in seconds.
        other: ``float64[M, 2]``.

    Returns:
        ``float64[N, M]``, from 0 to 1. Two spans without length overlap by 0, unless they are equal.
    """
    start = np.maximum(one[:, None, 0], other[None, :, 0])
    end = np.minimum(one[:, None, 1], other[None, :, 1])
    shared = np.maximum(end - start, 0.0)
    lengths = (one[:, 1] - one[:, 0])[:, None] + (other[:, 1] - other[:, 0])[None, :]
    union = lengths - shared
    equal = (one[:, None, :] == other[None, :, :]).all(axis=2)
    return np.where(equal, 1.0, np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def suppress(files: Sequence[Hashable], spans: NDArray[np.float64], limit: float) -> list[int]:
    """Non-maximum suppression in time: the spans that no better span of the same file overlaps too far.

    The spans come ranked, and the better one stays. So the answer for the first spans of a ranking is the beginning of
    the answer for all.

    Args:
        files: The file of each span, the best span first.
        spans: ``float64[N, 2]``, start and end in seconds.
        limit: The largest intersection over union that two spans of one file may have. 1 keeps all.

    Returns:
        Positions of the kept spans, ascending.
    """
    of_file: dict[Hashable, list[int]] = {}
    for position, file in enumerate(files):
        of_file.setdefault(file, []).append(position)
    kept: list[int] = []
    for positions in of_file.values():
        kept += positions if len(positions) == 1 else [positions[place] for place in apart(spans[positions], limit)]
    return sorted(kept)


def apart(spans: NDArray[np.float64], limit: float, most: int | None = None) -> list[int]:
    """Positions, ascending, of the spans of one file that no better one overlaps too far. See :func:`suppress`.

    Args:
        spans: ``float64[N, 2]``, start and end in seconds, the best span first.
        limit: The largest intersection over union of two spans.
        most: The most spans that are kept. None keeps any number.
    """
    kept: list[int] = []
    left = np.arange(len(spans))
    while len(left) and (most is None or len(kept) < most):
        kept.append(int(left[0]))
        left = left[1:][overlaps(spans[left[:1]], spans[left[1:]])[0] <= limit]
    return kept


def narrow(
    times: NDArray[np.float64], scores: NDArray[np.float64], span: tuple[float, float], level: float | None = None
) -> tuple[float, float]:
    """The part of a span in which its frames score above a level: the run of frames with the largest sum above it.

    A frame stands for the time to half way to its neighbours, and the outer frames reach to the ends of the span.

    Args:
        times: ``float64[T]``, the times of the frames in seconds, ascending (or descending, where a video runs
            backwards) and inside the span.
        scores: ``float64[T]``, the score of each frame.
        span: Start and end in seconds.
        level: What counts as above. None means the mean of ``scores``. The mean over the whole file lets a span that
            lies inside a moment stay as it is.

    Returns:
        Start and end in seconds. The whole span if no frame is above the level, or if it has fewer than two frames.
    """
    if len(times) < 2:
        return span
    if times[0] > times[-1]:
        times, scores = times[::-1], scores[::-1]
    base = float(scores.mean()) if level is None else level
    run = best_run(np.rint((scores - base) * STEPS).astype(np.int64))
    if run is None:
        return span
    first, last = run
    edges = np.concatenate([[span[0]], (times[1:] + times[:-1]) / 2, [span[1]]])
    return float(edges[first]), float(edges[last + 1])


def best_run(gains: NDArray[np.int64]) -> tuple[int, int] | None:
    """First and last position of the run with the largest sum, the longest of several. None if no sum is above 0."""
    best, length, found = 0, 0, None
    total, lowest, begin = 0, 0, 0
    for position, gain in enumerate(gains.tolist()):
        total += gain
        # The earliest lowest point makes the run as long as it can be.
        here = (total - lowest, position + 1 - begin)
        if here > (best, length) and here[0] > 0:
            (best, length), found = here, (begin, position)
        if total < lowest:
            lowest, begin = total, position + 1
    return found


def fold(vectors: NDArray[np.float32], threshold: float) -> list[int]:
    """Near-duplicates in a ranking: for each vector, the first earlier one that it repeats, or itself.

    A vector that repeats another one represents nothing, so chains do not grow.

    Args:
        vectors: ``float32[N, D]``, L2-normalised, the best first.
        threshold: The cosine from which on two vectors count as the same.

    Returns:
        N positions. Position n is kept where entry n is n.
    """
    kept: list[int] = []
    target: list[int] = []
    for position in range(len(vectors)):
        cosines = vectors[kept] @ vectors[position] if kept else np.zeros(0, dtype=np.float32)
        same = np.flatnonzero(np.round(cosines, 6) >= threshold)
        if len(same):
            target.append(kept[int(same[0])])
        else:
            kept.append(position)
            target.append(position)
    return target
