"""Where a project keeps its files: the one owner of every path under the root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The paths of one project.

    Args:
        root: the folder of params.yaml.
    """

    root: Path

    @property
    def params(self) -> Path:
        """All settings."""
        return self.root / "params.yaml"

    def frames(self, task: str) -> Path:
        """The task's published frame store, or the card of one that is kept elsewhere."""
        return self.root / "outputs" / "frames" / task

    def adapter(self, task: str, method: str, seed: int) -> Path:
        """A published adapter with its training record and curve."""
        return self.root / "outputs" / "adapters" / task / f"{method}-{seed}"

    def scorecards(self, task: str, method: str, seed: int) -> Path:
        """The scorecards of an adapter, one per split."""
        return self.root / "outputs" / "scorecards" / task / f"{method}-{seed}"

    def champion_record(self, task: str) -> Path:
        """Which version of the task's model is the champion, and why."""
        return self.root / "outputs" / "registry" / f"{task}.json"

    def champion(self, task: str) -> Path:
        """The champion's adapter."""
        return self.root / "outputs" / "registry" / task

    def index(self, task: str) -> Path:
        """The task's search index."""
        return self.root / "outputs" / "indexes" / task

    def fingerprint(self, entry: str) -> Path:
        """The hash of the code behind a stage, or behind one entry of it such as ``train/vop``."""
        return self.root / "outputs" / "fingerprints" / f"{entry}.json"

    @property
    def reports(self) -> Path:
        """Tables, plots and the page."""
        return self.root / "reports"

    @property
    def work(self) -> Path:
        """State that lets interrupted work continue; safe to delete when nothing runs."""
        return self.root / ".reeltune"

    def ingest_work(self, task: str) -> Path:
        """The working state of a task's ingest."""
        return self.work / "ingest" / task

    @property
    def training_work(self) -> Path:
        """Checkpoints of unfinished trainings, unless ``execution.storage`` names another place."""
        return self.work / "train"

    @property
    def tracking_database(self) -> Path:
        """MLflow's local store."""
        return self.root / "mlflow.db"

    @property
    def tracking_artifacts(self) -> Path:
        """The files of MLflow's runs and models."""
        return self.root / "mlartifacts"
