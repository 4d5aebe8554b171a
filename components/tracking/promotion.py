"""The rule that moves a registry alias: same protocol, and better by more than a margin. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.errors import RegistryError
from components.tracking.flatten import flatten

# What must be equal before two scorecards can be compared. The method, its size and its speed may differ.
COMPARED = (
    "task",
    "split",
    "protocol",
    "gallery",
    "queries",
    "subset_queries",
    "failed_videos",
    "rank_rule",
    "frames",
    "words",
    "sampling",
    "backbone",
    "store",
)

CURE = "`register.py --task <task> --retire <reason>` gives the alias to the best candidate"


@dataclass(frozen=True)
class Decision:
    """Whether the challenger takes the alias, and why.

    Attributes:
        promote: True moves the alias.
        reason: one sentence for the log.
        challenger: the challenger's metric.
        champion: the champion's metric, None where there is no champion.
    """

    promote: bool
    reason: str
    challenger: float
    champion: float | None


def decide(
    challenger: Mapping[str, Any], champion: Mapping[str, Any] | None, *, metric: str, margin: float
) -> Decision:
    """Compares two scorecards of the validation split.

    Args:
        challenger: scorecard with ``split``, ``protocol`` and ``metrics``.
        champion: scorecard of the alias's holder, None where nobody holds it.
        metric: ``<direction>_<name>``, such as ``t2v_R@1``, of the whole split.
        margin: points by which the challenger must be better; a tie never moves the alias.

    Raises:
        RegistryError: a scorecard lacks the metric, or its value is not finite.
    """
    new = metric_of(challenger, metric)
    if champion is None:
        return Decision(True, f"no champion yet; {metric} is {new:.2f}", new, None)
    old = metric_of(champion, metric)
    differing = protocol_differences(challenger, champion)
    if differing:
        return Decision(False, f"refused: not the champion's protocol ({'; '.join(differing)}); {CURE}", new, old)
    gain = old - new if _lower_is_better(metric) else new - old
    text = f"{metric} is {new:.2f}, the champion's {old:.2f}, margin {margin:g}"
    if gain > margin:
        return Decision(True, f"better by {gain:.2f}: {text}", new, old)
    return Decision(False, f"not better by more than the margin: {text}", new, old)


def metric_of(card: Mapping[str, Any], metric: str) -> float:
    """The value of ``<direction>_<name>`` on the whole split of a scorecard.

    Raises:
        RegistryError: no such metric, or its value is not finite.
    """
    direction, _, name = metric.partition("_")
    table = card.get("metrics", {}).get("all", {})
    where = f"scorecard of {card.get('task')}, {card.get('method')}-{card.get('seed')}"
    if name not in table.get(direction, {}):
        known = [f"{way}_{key}" for way, row in table.items() for key in row]
        raise RegistryError("unknown metric", where=where, found=metric, expected="one of " + ", ".join(known))
    value = float(table[direction][name])
    if not math.isfinite(value):
        raise RegistryError(f"{metric} is not finite", where=where, found=value)
    return value


def protocol_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The protocol fields in which two scorecards differ, as ``field: a / b``, in alphabetical order."""
    left, right = _protocol(one), _protocol(other)
    fields = sorted({*left, *right})
    return [f"{key}: {left.get(key)} / {right.get(key)}" for key in fields if left.get(key) != right.get(key)]


def best_first(cards: Sequence[Mapping[str, Any]], metric: str) -> list[int]:
    """Positions of ``cards`` by falling quality, ties in the order given.

    Challengers take their turn in this order, so that with a margin a weaker one cannot bar a better one.
    """
    sign = 1.0 if _lower_is_better(metric) else -1.0
    return sorted(range(len(cards)), key=lambda index: sign * metric_of(cards[index], metric))


def _lower_is_better(metric: str) -> bool:
    return metric.partition("_")[2] in ("MdR", "MnR")


def _protocol(card: Mapping[str, Any]) -> dict[str, Any]:
    return flatten({key: card[key] for key in COMPARED if key in card})
