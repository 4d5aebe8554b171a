"""Where a project keeps its files. All paths under the root come from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The paths of one project.

    Args:
        root: The folder of params.yaml.
    """

    root: Path

    @property
    def params(self) -> Path:
        """All settings."""
        return self.root / "params.yaml"

    def frames(self, task: str) -> Path:
        """The published frame store of a task, or the card of a store that is kept elsewhere."""
        return self.root / "outputs" / "frames" / task

    def captions(self, task: str) -> Path:
        """The captions of a task's training frames."""
        return self.root / "outputs" / "captions" / task

    def adapter(self, task: str, method: str, seed: int) -> Path:
        """A published adapter, with its training record and learning curve."""
        return self.root / "outputs" / "adapters" / task / f"{method}-{seed}"

    def scorecards(self, task: str, method: str, seed: int) -> Path:
        """The scorecards of an adapter, one per split."""
        return self.root / "outputs" / "scorecards" / task / f"{method}-{seed}"

    @property
    def all_scorecards(self) -> Path:
        """The scorecards of all adapters. Each is in ``<task>/<method>-<seed>``."""
        return self.root / "outputs" / "scorecards"

    def champion_record(self, task: str) -> Path:
        """The record of which version of the task's model is the champion, and why."""
        return self.root / "outputs" / "registry" / f"{task}.json"

    def champion(self, task: str) -> Path:
        """The adapter of the champion."""
        return self.root / "outputs" / "registry" / task

    def index(self, task: str) -> Path:
        """The search index of a task."""
        return self.root / "outputs" / "indexes" / task

    @property
    def fingerprints(self) -> Path:
        """The hashes of the code of all stages."""
        return self.root / "outputs" / "fingerprints"

    @property
    def backbones(self) -> Path:
        """The backbones of all tasks."""
        return self.root / "outputs" / "backbones"

    def backbone(self, task: str) -> Path:
        """The settings and file hashes of a task's backbone."""
        return self.backbones / f"{task}.json"

    def fingerprint(self, entry: str) -> Path:
        """The hash of the code of a stage, or of one entry of it such as ``train/vop``."""
        return self.fingerprints / f"{entry}.json"

    @property
    def reports(self) -> Path:
        """Tables, plots and the page."""
        return self.root / "reports"

    @property
    def work(self) -> Path:
        """The state that lets interrupted work resume. It is safe to delete when nothing runs."""
        return self.root / ".reeltune"

    def plain_adapter(self, task: str) -> Path:
        """The adapter without parameters that indexes a task that has no champion."""
        return self.work / "plain" / task

    def ingest_work(self, task: str) -> Path:
        """The working state of the ingest of a task."""
        return self.work / "ingest" / task

    def captions_work(self, task: str) -> Path:
        """The captions that unfinished runs have made."""
        return self.work / "captions" / task

    def index_work(self, task: str) -> Path:
        """The working state of the index of a task: blocks of vectors that are not part of an index yet."""
        return self.work / "index" / task

    @property
    def training_work(self) -> Path:
        """The checkpoints of unfinished trainings, unless ``execution.storage`` names another place."""
        return self.work / "train"

    @property
    def tracking_work(self) -> Path:
        """What the tracking store has not received yet, and the locks of registered models."""
        return self.work / "tracking"

    def exported_champion(self, task: str) -> Path:
        """The adapter of a champion that is not the one of :meth:`champion`, since its alias was moved by hand."""
        return self.work / "champion" / task

    @property
    def tracking_database(self) -> Path:
        """The local database of MLflow."""
        return self.root / "mlflow.db"

    @property
    def tracking_artifacts(self) -> Path:
        """The files of runs and models in MLflow."""
        return self.root / "mlartifacts"
