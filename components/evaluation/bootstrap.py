"""Bootstrap of retrieval metrics: how far they could move if other videos had been collected.

The intervals are percentile intervals (Efron and Tibshirani, 1993, chapter 13). *Videos* are drawn with replacement,
each with all its captions. Captions of one video tend to be right or wrong together, so drawing captions singly would
make the intervals too narrow. Ranks do not change: the gallery is not drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from components.evaluation.card import METRICS, Intervals
from components.evaluation.metrics import DECIMALS, RECALLS

LEVEL = 95

# Fixed, so that a scorecard has the same bytes every time and two adapters are compared on the same draws.
SEED = 0

# The most weights of queries that are in memory at a time.
_CELLS = 2**22


def resampled(ranks: NDArray[np.float64], video: NDArray[np.int64], resamples: int) -> NDArray[np.float64]:
    """The metrics of each resample, float64[resamples, 5] in the order of :data:`METRICS`.

    Args:
        ranks: float64[Q], at least one.
        video: int64[Q], the video that each query belongs to. Equal arrays give equal draws.
        resamples: The number of resamples.
    """
    _, group = np.unique(video, return_inverse=True)
    sizes = np.bincount(group)
    hits = np.stack([np.bincount(group, ranks <= k) for k in RECALLS], axis=1)
    totals = np.concatenate([hits, np.bincount(group, ranks)[:, None]], axis=1)
    order = np.argsort(ranks, kind="stable")
    metrics = np.empty((resamples, len(METRICS)))
    done = 0
    for weights in _draws(len(sizes), resamples, len(ranks)):
        rows = slice(done, done + len(weights))
        queries = weights @ sizes
        sums = weights @ totals
        metrics[rows, :3] = 100.0 * sums[:, :3] / queries[:, None]
        metrics[rows, 3] = _medians(ranks[order], weights[:, group[order]])
        metrics[rows, 4] = sums[:, 3] / queries
        done += len(weights)
    return metrics


def intervals(ranks: NDArray[np.float64], video: NDArray[np.int64], resamples: int) -> Intervals:
    """The 95 % interval of each metric, ``{"R@1": (low, high), ...}``. Arguments as for :func:`resampled`."""
    low, high = bounds(resampled(ranks, video, resamples))
    return {
        name: (round(float(a), DECIMALS), round(float(b), DECIMALS))
        for name, a, b in zip(METRICS, low, high, strict=True)
    }


def mean_interval(values: NDArray[np.float64], video: NDArray[np.int64], resamples: int) -> tuple[float, float]:
    """The 95 % interval of a mean.

    Args:
        values: float64[Q], at least one.
        video: int64[Q], the video that each value belongs to.
        resamples: The number of resamples of the videos.
    """
    _, group = np.unique(video, return_inverse=True)
    sizes, sums = np.bincount(group), np.bincount(group, values)
    means = [weights @ sums / (weights @ sizes) for weights in _draws(len(sizes), resamples, len(values))]
    low, high = bounds(np.concatenate(means)[:, None])
    return round(float(low[0]), DECIMALS), round(float(high[0]), DECIMALS)


def bounds(metrics: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper end of the 95 % interval of each column of ``metrics`` (float64[resamples, M])."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(metrics, [tail, 100 - tail], axis=0)
    return low, high


def _draws(videos: int, resamples: int, queries: int) -> Iterator[NDArray[np.int64]]:
    """How often each video was drawn, int64[n, videos], a few resamples at a time.

    The draws do not depend on how many resamples are made at a time. The generator is that of the NumPy release in
    requirements.lock, and another release may draw differently.
    """
    generator = np.random.Generator(np.random.PCG64(SEED))
    step = max(1, _CELLS // max(videos, queries))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = generator.integers(videos, size=(count, videos))
        drawn += np.arange(count)[:, None] * videos
        yield np.bincount(drawn.ravel(), minlength=count * videos).reshape(count, videos)


def _medians(ordered: NDArray[np.float64], weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Medians of ``ordered`` (float64[Q], ascending), each value counted ``weights`` (int64[n, Q]) times."""
    running = np.cumsum(weights, axis=1)
    queries = running[:, -1:]
    lower = np.argmax(running > (queries - 1) // 2, axis=1)
    upper = np.argmax(running > queries // 2, axis=1)
    return (ordered[lower] + ordered[upper]) / 2
