"""The outcomes of a search's trials, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

METRIC = "t2v_R@1"


@dataclass(frozen=True)
class Trial:
    """The outcome of one trial.

    Args:
        overrides: The values of the searched settings by dotted key.
        epoch: The last measured epoch; 0 if the trial failed before one.
        metrics: The validation metrics of that epoch.
        error: Why the trial failed, else empty.
    """

    overrides: dict[str, Any]
    epoch: int
    metrics: dict[str, float]
    error: str = ""

    @property
    def order(self) -> tuple[int, float]:
        """Sorts later epochs first, then better metrics. A trial that was stopped early was weaker."""
        return -self.epoch, -self.metrics.get(METRIC, 0.0)

    @property
    def record(self) -> dict[str, Any]:
        """The trial as reports/tune/ keeps it."""
        return {
            "overrides": self.overrides,
            "epoch": self.epoch,
            "figures": self.metrics,
            "error": self.error,
        }


def table(trials: Sequence[Trial], epochs: int) -> str:
    """A line per trial for a terminal, the best first, and the overrides that repeat the best one."""
    lines = ["   epoch  val t2v R@1  val v2t R@1  settings"]
    for trial in trials:
        stopped = " " if trial.epoch == epochs else "<"
        t2v, v2t = (trial.metrics.get(name, float("nan")) for name in (METRIC, "v2t_R@1"))
        lines.append(f"{trial.epoch:>7} {stopped}{t2v:>12.1f}{v2t:>13.1f}  {trial.error or _overrides(trial)}")
    if any(trial.epoch < epochs for trial in trials):
        lines.append("< stopped early, or failed")
    return "\n".join([*lines, f"best: {_overrides(trials[0])}"])


def _overrides(trial: Trial) -> str:
    return " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in trial.overrides.items()
    )
