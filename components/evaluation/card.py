"""The head of a scorecard: the fields of ``<split>.json`` that every card has. Reading it needs no torch."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

# part -> direction -> metric -> value, such as all -> t2v -> R@1.
Metrics = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True, config=ConfigDict(extra="ignore", strict=True, allow_inf_nan=False))
class ScorecardHead:
    """What was evaluated and how well it did. The other fields of the card are not checked.

    Attributes:
        task: Name of the collection.
        method: The method's entry in params.yaml.
        seed: The seed of the training.
        split: The videos that were ranked.
        metrics: The metrics of the whole split (``all``) and of each named part.
        rescored: What each re-scoring uses, its settings and its metrics, by its name.
    """

    task: str
    method: str
    seed: int
    split: str
    metrics: Metrics
    rescored: dict[str, dict[str, Any]] = Field(default_factory=dict)
