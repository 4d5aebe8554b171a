"""Versions of a task's registered model, and the alias that one of them has.

A version is an adapter with its scorecards, a few tens of kilobytes. The alias moves only by the rule of
:mod:`components.tracking.promotion`, or when a person retires the champion. The version's tags give the reason.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from components import storage
from components.errors import RegistryError
from components.evaluation.card import ScorecardHead
from components.records import read_record
from components.tracking import promotion
from components.tracking.database import missing_alias
from components.tracking.evaluated import EvaluatedAdapter, copy_adapter, metrics_of, tags_of, write_scorecards
from components.tracking.model import ModelConfig
from components.tracking.record import CandidateEntry, Champion, Outcome, RegistryRecord
from components.tracking.runs import TrackedRun, find_run, start_run
from components.tracking.settings import TrackingSettings
from components.tracking.store import MlflowClient, StoreError, quoted
from components.tracking.version_files import VersionFiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RegisteredVersion:
    """An evaluated adapter that is in the registry.

    Attributes:
        number: The version's number.
        run_id: The version's run in MLflow.
        adapter: What was registered.
    """

    number: str
    run_id: str
    adapter: EvaluatedAdapter


class ModelRegistry:
    """The registered model of one task.

    Args:
        client: A client of the store.
        root: The project's folder.
        settings: The ``tracking`` block of params.yaml.
        task: Key of the task in params.yaml, and the model's name.
    """

    def __init__(self, client: MlflowClient, root: Path, settings: TrackingSettings, task: str) -> None:
        self.client = client
        self.root = root
        self.settings = settings
        self.task = task
        self.files = VersionFiles(client, task)

    def register(
        self, adapter: EvaluatedAdapter, *, code: Path, config: ModelConfig, provenance: Mapping[str, Any]
    ) -> RegisteredVersion:
        """Register ``adapter``. If it has a version, that one stays, and its scorecards and code are replaced.

        Files of that version that are gone are put back. Of versions with the same adapter, which two machines can
        make at the same time, the oldest one stays.

        Args:
            adapter: An adapter of this task.
            code: The file that MLflow runs to load the version. Each version has a copy.
            config: What the model finds its videos with.
            provenance: Tags for the run, if a new run is necessary.
        """
        known = self._versions().get(adapter.identity)
        if known is None:
            known = self._create(adapter, self._run(adapter, provenance), code, config)
        elif not self.files.has_all(known.tags["model_id"], adapter.card):
            logger.warning("%s version %s: its files are gone and are put back", self.task, known.version)
            self.files.upload(known.tags["model_id"], adapter, code, config)
        with tempfile.TemporaryDirectory() as scratch:
            write_scorecards(adapter, Path(scratch))
            self.client.log_model_artifacts(known.tags["model_id"], scratch, "scorecards")
        self.renew_code(str(known.version), code)
        self._tag(str(known.version), tags_of(adapter))
        return RegisteredVersion(str(known.version), str(known.run_id), adapter)

    def renew_code(self, number: str, code: Path) -> None:
        """Replace a version's copy of ``code``. The copy of an older release may import what no longer exists."""
        version = self.client.get_model_version(self.task, number)
        self.client.log_model_artifact(version.tags["model_id"], str(code))

    def champion(self) -> tuple[str, ScorecardHead] | None:
        """The number and the validation scorecard of the version that has the alias, or None."""
        number = self._holder()
        if number is None:
            return None
        with self.files.copy_of(number) as folder:
            path, cure = folder / "scorecards" / "val.json", self.files.cure(number)
            return number, read_record(path, ScorecardHead, error=RegistryError, cure=cure)

    def promote(self, versions: Sequence[RegisteredVersion]) -> tuple[Outcome, ...]:
        """Let each version challenge the champion, best first.

        Returns:
            The outcomes in the order of ``versions``.
        """
        outcomes: dict[str, Outcome] = {}
        scorecards = [version.adapter.scorecards["val"] for version in versions]
        for index in promotion.best_first(scorecards, self.settings.metric):
            outcomes[versions[index].number] = self._challenge(versions[index])
        return tuple(outcomes[version.number] for version in versions)

    def _challenge(self, version: RegisteredVersion) -> Outcome:
        """Let one version challenge the champion. The alias moves only if the champion is still the one compared."""
        settings, adapter, number = self.settings, version.adapter, version.number
        while True:
            holder = self.champion()
            if holder is not None and holder[0] == number:
                reason = self.client.get_model_version(self.task, number).tags.get("decision_reason", "")
                return Outcome(adapter.method, adapter.seed, number, True, reason)
            decision = promotion.decide(
                adapter.scorecards["val"],
                holder[1] if holder else None,
                metric=settings.metric,
                margin=settings.margin,
            )
            if decision.promote:
                if self._holder() != (holder[0] if holder else None):
                    continue  # somebody else moved the alias meanwhile
                self.client.set_registered_model_alias(self.task, settings.alias, number)
            verdict = "promoted" if decision.promote else "kept back"
            self._tag(number, {"decision": verdict, "decision_reason": decision.reason})
            return Outcome(adapter.method, adapter.seed, number, decision.promote, decision.reason)

    def retire(self, reason: str) -> None:
        """Take the alias from the champion, so that the best candidate gets it. The tags say that a person did this.

        Raises:
            RegistryError: No version has the alias.
        """
        number = self._champion_number()
        self.client.delete_registered_model_alias(self.task, self.settings.alias)
        self._tag(number, {"decision": "retired", "decision_reason": f"retired by hand: {reason}"})

    def export_champion(self, folder: Path) -> Champion:
        """Copy the champion's adapter from the registry into ``folder``, which is replaced once the copy is checked.

        The registry is the source, since a champion may come from an earlier training whose files are gone.

        Raises:
            RegistryError: No version has the alias, or its files are gone or damaged.
        """
        number = self._champion_number()
        version = self.client.get_model_version(self.task, number)
        with self.files.copy_of(number) as model:
            adapter = model / "artifacts" / "adapter"
            card = self.files.checked(adapter, number, version.tags.get("adapter_sha256"))
            storage.publish_folder(adapter, folder)
        return Champion(
            method=card.label,
            seed=int(version.tags["seed"]),
            version=number,
            run_id=version.run_id,
            sha256=card.sha256,
            folder=storage.relative(self.root, str(folder)),
        )

    def record(
        self, champion: Champion, versions: Sequence[RegisteredVersion], outcomes: tuple[Outcome, ...]
    ) -> RegistryRecord:
        """The result of the register stage, from what the other methods returned."""
        candidates = tuple(
            CandidateEntry(
                method=version.adapter.method,
                seed=version.adapter.seed,
                version=version.number,
                run_id=version.run_id,
                sha256=version.adapter.card.sha256,
                validation={**metrics_of(version.adapter.scorecards["val"])},
            )
            for version in versions
        )
        return RegistryRecord(self.task, champion, self.settings.alias, candidates, outcomes)

    def _run(self, adapter: EvaluatedAdapter, provenance: Mapping[str, Any]) -> str:
        """The id of the training's run, or of a new run with the same parameters if this store lacks that one."""
        found = find_run(self.client, adapter.run_id)
        if found is not None:
            run = TrackedRun(self.client, found.info.run_id, self.root)
        else:
            run = start_run(
                self.root,
                self.settings,
                task=self.task,
                method=adapter.method,
                seed=adapter.seed,
                params={"settings": adapter.card.settings, "frames": adapter.card.frames},
                provenance=provenance,
                tags={"backbone": adapter.card.backbone.to_dict(), "made_by": "register"},
            )
        # A new run ends here. The training's run has ended already.
        with run if found is None else contextlib.nullcontext(), tempfile.TemporaryDirectory() as scratch:
            copy_adapter(adapter.folder, Path(scratch) / "adapter")
            write_scorecards(adapter, Path(scratch) / "scorecards")
            run.log_folder(Path(scratch), "registered")
            for split, scorecard in adapter.scorecards.items():
                run.log(0, {f"scorecard/{split}/{key}": value for key, value in metrics_of(scorecard).items()})
        return run.run_id

    def _create(self, adapter: EvaluatedAdapter, run_id: str, code: Path, config: ModelConfig) -> ModelVersion:
        client = self.client
        self._ensure_model()
        experiment = client.get_run(run_id).info.experiment_id
        logged = client.create_logged_model(experiment, adapter.name, source_run_id=run_id, model_type="adapter")
        try:
            self.files.upload(logged.model_id, adapter, code, config)
        except BaseException:
            client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        client.finalize_logged_model(logged.model_id, "READY")
        made = client.create_model_version(
            self.task,
            source=logged.artifact_location,
            run_id=run_id,
            model_id=logged.model_id,
            tags={"identity": adapter.identity, "model_id": logged.model_id},
        )
        oldest = self._versions()[adapter.identity]
        if str(oldest.version) != str(made.version):
            # Another machine was faster. All that made one see the same oldest version, and each deletes its later one.
            client.delete_model_version(self.task, str(made.version))
        return oldest

    def _ensure_model(self) -> None:
        try:
            self.client.create_registered_model(
                self.task, description=f"Adapters of a frozen CLIP for text-to-video retrieval on {self.task}."
            )
        except StoreError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _versions(self) -> dict[str, ModelVersion]:
        """Versions by the identity of their adapter, the oldest one if several versions have the same."""
        found = self.client.search_model_versions(f"name = {quoted(self.task)}", order_by=["version_number DESC"])
        return {version.tags["identity"]: version for version in found if "identity" in version.tags}

    def _champion_number(self) -> str:
        number = self._holder()
        if number is None:
            raise missing_alias(self.task, self.settings.alias)
        return number

    def _holder(self) -> str | None:
        """The number of the version that has the alias."""
        try:
            version = self.client.get_model_version_by_alias(self.task, self.settings.alias)
        except StoreError as error:
            if error.code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return str(version.version)

    def _tag(self, number: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self.client.set_model_version_tag(self.task, number, key, value)
