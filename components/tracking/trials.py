"""Trials of a search over settings as runs in MLflow: a parent per search and a child per trial, logged live."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.tracking.runs import TrackedRun, start_run
from components.tracking.settings import TrackingSettings
from components.tracking.store import connect

logger = logging.getLogger(__name__)

# MLflow's pages nest runs by this tag.
PARENT = "mlflow.parentRunId"


@dataclass
class TrialRuns:
    """A :class:`components.training.tune.Follow` that logs to MLflow.

    It is pickled without its connections, and connects again in each process.

    Args:
        root: The project's folder.
        settings: The ``tracking`` block of params.yaml.
        parent: The id of the search's run.
        search: The search's name, which identifies a trial together with the trial's name.
        task: Key of the task in params.yaml.
        method: Key of the method in params.yaml.
        seed: The trainings' seed.
        params: Nested settings that all trials share.
        provenance: What :func:`components.provenance.collect` returned for the search.
        runs: The run id of each trial.
        values: What each trial tries, as text.
        tracked: The runs that this process has opened, by trial.
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
    tracked: dict[str, TrackedRun] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "tracked": {}}

    def started(self, trial: str, values: Mapping[str, Any]) -> None:
        """Start the trial's run, or continue it if the search was killed."""
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
        self.runs[trial], self.tracked[trial] = run.run_id, run
        self.values[trial] = ", ".join(_short(key, value) for key, value in values.items())

    def measured(self, trial: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch's validation metrics."""
        self._run(trial).log(epoch, {f"val_{name}": value for name, value in metrics.items()})
        logger.info("%s: epoch %d, val t2v R@1 %.1f", self.values[trial], epoch, metrics["t2v_R@1"])

    def ended(self, trial: str, failed: bool) -> None:
        """End the trial's run."""
        self._run(trial).finish("FAILED" if failed else "FINISHED")

    def _run(self, trial: str) -> TrackedRun:
        if trial not in self.tracked:
            self.tracked[trial] = TrackedRun(connect(self.root, self.settings), self.runs[trial], self.root)
        return self.tracked[trial]


def _short(key: str, value: object) -> str:
    name = key.rpartition(".")[2]
    return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
