"""Nested settings and metrics under the flat names that a tracking store expects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted keys. Lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def metric_name(name: str) -> str:
    """``name`` without the sign that MLflow refuses: ``t2v_R@1`` becomes ``t2v_R1``."""
    return name.replace("@", "")


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics without NaN and infinity. MLflow's SQL store would write NaN as 0."""
    return {key: value for key, value in metrics.items() if math.isfinite(value)}
