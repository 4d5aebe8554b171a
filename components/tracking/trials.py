"""Trials of a search over settings as runs in MLflow: a parent per search, a child per trial, figures live."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.tracking.mlflow import Run, connect, start_run
from components.tracking.settings import TrackingSettings

logger = logging.getLogger(__name__)

# MLflow's pages nest runs by this tag.
PARENT = "mlflow.parentRunId"


@dataclass
class TrialRuns:
    """A :class:`components.training.tune.Follow` that logs; it holds plain values and connects anew in each process.

    Args:
        root: the project's folder.
        settings: the ``tracking`` block.
        parent: id of the search's run.
        search: name of the search, part of each trial's identity.
        task, method, seed: of every trial.
        params: nested settings of every trial.
        provenance: of the search.
    """

    root: Path
    settings: TrackingSettings
    parent: str
    search: str
    task: str
    method: str
    seed: int
    params: Mapping[str, Any]
    provenance: Mapping[str, Any]
    runs: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    def started(self, trial: str, values: Mapping[str, Any]) -> None:
        """Starts the trial's run, or goes on with that of a search that was killed."""
        run = start_run(
            self.root,
            self.settings,
            task=self.task,
            method=f"{self.method}-trial-{trial}",
            seed=self.seed,
            params={**self.params, "search": dict(values)},
            provenance=self.provenance,
            tags={PARENT: self.parent},
            resume=f"{self.search}-{trial}",
        )
        self.runs[trial] = run.run_id
        self.values[trial] = ", ".join(_short(key, value) for key, value in values.items())

    def measured(self, trial: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Logs the figures of an epoch."""
        self._run(trial).log(epoch, {f"val_{name}": value for name, value in figures.items()})
        logger.info("%s: epoch %d, val t2v R@1 %.1f", self.values[trial], epoch, figures["t2v_R@1"])

    def ended(self, trial: str, failed: bool) -> None:
        """Ends the trial's run."""
        self._run(trial).finish("FAILED" if failed else "FINISHED")

    def _run(self, trial: str) -> Run:
        return Run(connect(self.root, self.settings), self.runs[trial])


def _short(key: str, value: object) -> str:
    name = key.rpartition(".")[2]
    return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
