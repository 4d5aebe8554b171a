"""Recall at K, median rank and mean rank. The directions are called t2v and v2t everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.evaluation.card import Metrics, Ties
from components.evaluation.ranks import Ranks

RECALLS = (1, 5, 10)

# One query changes a metric by far more than this, and the order of summation by less.
DECIMALS = 6


def summary(ranks: NDArray[np.floating] | NDArray[np.integer]) -> Metrics:
    """R@1, R@5 and R@10 in percent, MdR and MnR. The median of an even number of ranks is the mean of the middle two.

    Args:
        ranks: float[Q] or int[Q], the ranks from 1. There is at least one.
    """
    if len(ranks) == 0:
        raise ValueError("no queries")
    recalls = {f"R@{k}": round(100.0 * float(np.mean(ranks <= k)), DECIMALS) for k in RECALLS}
    return {
        **recalls,
        "MdR": round(float(np.median(ranks)), DECIMALS),
        "MnR": round(float(np.mean(ranks)), DECIMALS),
    }


def ties(ranks: Ranks) -> Ties:
    """How far ties could move the metrics."""
    return Ties(
        queries=int(np.sum(ranks.optimistic != ranks.pessimistic)),
        optimistic=summary(ranks.optimistic),
        pessimistic=summary(ranks.pessimistic),
    )
