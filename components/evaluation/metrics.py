"""Recall at K, median and mean rank, both directions named t2v and v2t throughout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.evaluation.ranks import Ranks

RECALLS = (1, 5, 10)

# Six decimals: far below one query's weight, above the noise of summation order.
DECIMALS = 6


def summary(ranks: NDArray[np.floating] | NDArray[np.integer]) -> dict[str, float]:
    """R@1, R@5, R@10 in percent, MdR and MnR (ranks from 1; the median of an even number is the middle's mean).

    Args:
        ranks: float[Q] or int[Q], at least one.
    """
    if len(ranks) == 0:
        raise ValueError("no queries")
    recalls = {f"R@{k}": round(100.0 * float(np.mean(ranks <= k)), DECIMALS) for k in RECALLS}
    return {
        **recalls,
        "MdR": round(float(np.median(ranks)), DECIMALS),
        "MnR": round(float(np.mean(ranks)), DECIMALS),
    }


def ties(ranks: Ranks) -> dict[str, object]:
    """How far ties could move the figures: queries with a tie, and the figures of either extreme."""
    return {
        "queries": int(np.sum(ranks.optimistic != ranks.pessimistic)),
        "optimistic": summary(ranks.optimistic),
        "pessimistic": summary(ranks.pessimistic),
    }
