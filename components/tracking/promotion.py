"""The rule that moves a registry alias: the same protocol, and better by more than a margin. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from components.errors import RegistryError
from components.evaluation.card import WHOLE, ScorecardHead
from components.tracking.flatten import flatten

# What must be equal before two scorecards can be compared: what was asked, and of which videos. The model that answers
# may differ: its method, its size, its speed and its backbone.
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
    "store",
)

CURE = "`register.py --task <task> --retire <reason>` gives the alias to the best candidate"


@dataclass(frozen=True)
class Decision:
    """Whether the challenger takes the alias, and why.

    Attributes:
        promote: True if the alias moves to the challenger.
        reason: One sentence for the log.
        challenger: The challenger's metric.
        champion: The champion's metric, None if there is no champion.
    """

    promote: bool
    reason: str
    challenger: float
    champion: float | None


def decide(challenger: ScorecardHead, champion: ScorecardHead | None, *, metric: str, margin: float) -> Decision:
    """Compare two scorecards of the validation split.

    Args:
        challenger: The challenger's scorecard.
        champion: The champion's scorecard, None if no version has the alias.
        metric: ``<direction>_<name>``, such as ``t2v_R@1``, on the whole split.
        margin: The challenger must be better by more points than this. A tie never moves the alias.

    Raises:
        RegistryError: A scorecard lacks the metric.
    """
    new = metric_of(challenger, metric)
    if champion is None:
        return Decision(True, f"no champion yet; {metric} is {new:.2f}", new, None)
    old = metric_of(champion, metric)
    differing = protocol_differences(challenger, champion)
    if differing:
        return Decision(False, f"refused: not the champion's protocol ({'; '.join(differing)}); {CURE}", new, old)
    gain = old - new if _lower_is_better(metric) else new - old
    text = f"{metric} is {new:.2f}, the champion's {old:.2f}, margin {margin:g}{_backbones(challenger, champion)}"
    if gain > margin:
        return Decision(True, f"better by {gain:.2f}: {text}", new, old)
    return Decision(False, f"not better by more than the margin: {text}", new, old)


def _backbones(challenger: ScorecardHead, champion: ScorecardHead) -> str:
    """Says that the two are of different backbones. A card of release 0.1 has none."""
    new, old = challenger.backbone, champion.backbone
    if new is None or old is None or new == old:
        return ""
    names = f"{new.model}, the champion's {old.model}"
    return f"; its backbone is {names}" + (" with other weights or settings" if new.model == old.model else "")


def metric_of(card: ScorecardHead, metric: str) -> float:
    """The value of ``<direction>_<name>`` on the whole split of a scorecard.

    Raises:
        RegistryError: The scorecard lacks the metric.
    """
    known = {
        f"{direction}_{name}": value
        for direction, row in card.metrics.get(WHOLE, {}).items()
        for name, value in row.items()
    }
    where = f"scorecard of {card.task}, {card.name}"
    if metric not in known:
        raise RegistryError("unknown metric", where=where, found=metric, expected="one of " + ", ".join(known))
    return known[metric]


def protocol_differences(one: ScorecardHead, other: ScorecardHead) -> list[str]:
    """The protocol fields in which two scorecards differ, as ``field: a / b``, in alphabetical order."""
    left, right = _protocol(one), _protocol(other)
    fields = sorted({*left, *right})
    return [f"{key}: {left.get(key)} / {right.get(key)}" for key in fields if left.get(key) != right.get(key)]


def best_first(cards: Sequence[ScorecardHead], metric: str) -> list[int]:
    """Positions of ``cards`` from the best to the worst. Ties keep the order given.

    Challengers take turns in this order. In another order, a weaker one could become champion first, and the margin
    would then keep out a slightly better one.
    """
    sign = 1.0 if _lower_is_better(metric) else -1.0
    return sorted(range(len(cards)), key=lambda index: sign * metric_of(cards[index], metric))


def _lower_is_better(metric: str) -> bool:
    return metric.partition("_")[2] in ("MdR", "MnR")


def _protocol(card: ScorecardHead) -> dict[str, Any]:
    content = asdict(card)
    return flatten({key: content[key] for key in COMPARED if content[key] is not None})
