"""Bootstrap of retrieval figures: how far they could move if other videos had been collected.

Percentile intervals (Efron and Tibshirani, 1993, chapter 13). *Videos* are drawn with replacement and bring all their
captions along: captions of one video stand or fall together, and drawing them singly would make intervals too narrow.
The ranks themselves are kept: the gallery is not drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from components.evaluation.metrics import DECIMALS, RECALLS

LEVEL = 95
FIGURES = (*(f"R@{k}" for k in RECALLS), "MdR", "MnR")

# Fixed, so that a scorecard has the same bytes every time and two adapters are compared on the same draws.
SEED = 0

# Weights of queries held at a time.
_CELLS = 2**22


def resampled(ranks: NDArray[np.float64], video: NDArray[np.int64], resamples: int) -> NDArray[np.float64]:
    """The figures of each resample, float64[resamples, 5] in the order of :data:`FIGURES`.

    Args:
        ranks: float64[Q], at least one.
        video: int64[Q], which video each query belongs to; equal arrays give equal draws.
        resamples: how many.
    """
    _, group = np.unique(video, return_inverse=True)
    sizes = np.bincount(group)
    hits = np.stack([np.bincount(group, ranks <= k) for k in RECALLS], axis=1)
    totals = np.concatenate([hits, np.bincount(group, ranks)[:, None]], axis=1)
    order = np.argsort(ranks, kind="stable")
    found = np.empty((resamples, len(FIGURES)))
    done = 0
    for weights in _draws(len(sizes), resamples, len(ranks)):
        rows = slice(done, done + len(weights))
        queries = weights @ sizes
        sums = weights @ totals
        found[rows, :3] = 100.0 * sums[:, :3] / queries[:, None]
        found[rows, 3] = _medians(ranks[order], weights[:, group[order]])
        found[rows, 4] = sums[:, 3] / queries
        done += len(weights)
    return found


def intervals(ranks: NDArray[np.float64], video: NDArray[np.int64], resamples: int) -> dict[str, list[float]]:
    """The 95 % interval of each figure, ``{"R@1": [low, high], ...}``; arguments as for :func:`resampled`."""
    low, high = bounds(resampled(ranks, video, resamples))
    return {
        name: [round(float(a), DECIMALS), round(float(b), DECIMALS)]
        for name, a, b in zip(FIGURES, low, high, strict=True)
    }


def bounds(figures: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper end of the 95 % interval of each column of ``figures`` (float64[resamples, F])."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(figures, [tail, 100 - tail], axis=0)
    return low, high


def _draws(videos: int, resamples: int, queries: int) -> Iterator[NDArray[np.int64]]:
    """How often each video was drawn, int64[n, videos], a few resamples at a time; the draws do not depend on how few.

    The generator is that of the NumPy release in requirements.lock; another release may draw otherwise.
    """
    generator = np.random.Generator(np.random.PCG64(SEED))
    step = max(1, _CELLS // max(videos, queries))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = generator.integers(videos, size=(count, videos))
        drawn += np.arange(count)[:, None] * videos
        yield np.bincount(drawn.ravel(), minlength=count * videos).reshape(count, videos)


def _medians(ordered: NDArray[np.float64], weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Medians of ``ordered`` (float64[Q], rising), each value taken as often as ``weights`` (int64[n, Q]) says."""
    running = np.cumsum(weights, axis=1)
    queries = running[:, -1:]
    lower = np.argmax(running > (queries - 1) // 2, axis=1)
    upper = np.argmax(running > queries // 2, axis=1)
    return (ordered[lower] + ordered[upper]) / 2
