"""Metrics of moments found in a video, as QVHighlights defines them (Lei et al., NeurIPS 2021).

A query is a text about one video, with one or more true spans. Its answer is a list of spans, the best first.

``R1@u``
    The share of the queries whose first span has an IoU of at least u with a true span.
``mAP@u``
    The mean over the queries of the average precision of the first :data:`ANSWERS` spans. A span is right if its IoU
    with a true span is at least u and no better span has taken that one. Precision is interpolated: at each recall, the
    highest precision at this recall or above counts.
``mAP``
    The mean of ``mAP@u`` over u = 0.5, 0.55, ..., 0.95.
``mAP short``, ``mAP middle``, ``mAP long``
    The same with the true spans of one range of lengths alone: up to 10 s, up to 30 s, and above. Queries without such
    a span are left out.

All values are in percent. A query without an answer counts as wrong. The release leaves such queries out of mAP.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.moments import overlaps

# Spans in seconds, float64[N, 2].
Spans = NDArray[np.float64]

ANSWERS = 10
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
# Lengths of true spans in seconds: above the first number, and at most the second.
LENGTHS = {"short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, np.inf)}
RECALLS = (0.5, 0.7)
PRECISIONS = (0.5, 0.75)
METRICS = (*(f"R1@{u}" for u in RECALLS), *(f"mAP@{u}" for u in PRECISIONS), "mAP")


def first_hits(found: Spans, true: Spans, thresholds: Sequence[float] = RECALLS) -> NDArray[np.float64]:
    """Whether the first span of an answer is right at each threshold: 1 or 0, ``float64[len(thresholds)]``.

    Args:
        found: float64[N, 2], the answer, the best first. It may be empty.
        true: float64[M, 2], at least one span.
        thresholds: The least IoU of a right span.
    """
    best = overlaps(found[:1], true).max() if len(found) else -1.0
    return (best >= np.asarray(thresholds)).astype(np.float64)


def average_precision(found: Spans, true: Spans, thresholds: Sequence[float] = THRESHOLDS) -> NDArray[np.float64]:
    """The interpolated average precision of one query at each threshold, ``float64[len(thresholds)]``.

    The arguments are those of :func:`first_hits`. Only the first :data:`ANSWERS` spans of ``found`` count.
    """
    right = _right(overlaps(found[:ANSWERS], true), np.asarray(thresholds))
    precision = np.cumsum(right, axis=1) / np.arange(1, right.shape[1] + 1)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area: NDArray[np.float64] = (highest * right).sum(axis=1) / len(true)
    return area


def _right(overlap: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which spans of an answer are right at U thresholds, ``float64[N, M], float64[U] -> bool[U, N]``.

    Each takes the true span that it overlaps most, of those that are still free.
    """
    free = np.where(overlap >= thresholds[:, None, None], overlap, -1.0)
    levels = np.arange(len(thresholds))
    right = np.zeros(free.shape[:2], dtype=bool)
    for row in range(len(overlap)):
        best = free[:, row].argmax(axis=1)
        right[:, row] = free[levels, row, best] >= 0
        taken = right[:, row]
        free[levels[taken], :, best[taken]] = -1.0
    return right


def of_queries(found: Sequence[Spans], true: Sequence[Spans]) -> dict[str, NDArray[np.float64]]:
    """What each query contributes to each metric of :data:`METRICS`, in percent: ``float64[Q]`` by name.

    Args:
        found: The answer to each query, the best span first.
        true: The true spans of each query, at least one each.
    """
    hits = np.array([first_hits(*pair) for pair in zip(found, true, strict=True)]).reshape(-1, len(RECALLS))
    precisions = np.array([average_precision(*pair) for pair in zip(found, true, strict=True)])
    precisions = precisions.reshape(-1, len(THRESHOLDS))
    columns = [
        *hits.T,
        *(precisions[:, THRESHOLDS.index(least)] for least in PRECISIONS),
        precisions.mean(axis=1),
    ]
    return {name: 100.0 * column for name, column in zip(METRICS, columns, strict=True)}


def by_length(found: Sequence[Spans], true: Sequence[Spans]) -> dict[str, float]:
    """``mAP short``, ``mAP middle`` and ``mAP long``, without those that no query has.

    The arguments are those of :func:`of_queries`.
    """
    metrics = {}
    for name, (above, most) in LENGTHS.items():
        kept = [spans[(spans[:, 1] - spans[:, 0] > above) & (spans[:, 1] - spans[:, 0] <= most)] for spans in true]
        values = [average_precision(*pair).mean() for pair in zip(found, kept, strict=True) if len(pair[1])]
        if values:
            metrics[f"mAP {name}"] = 100.0 * float(np.mean(values))
    return metrics
