"""Versions of a task's registered model, and the alias that one of them holds.

A version is an adapter with its scorecards, a few tens of kilobytes. The alias moves by the rule of
:mod:`components.tracking.promotion` alone, or by a person's ``retire``; either leaves its reason in the tags.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import storage
from components.errors import RegistryError
from components.tracking import promotion
from components.tracking.evaluated import (
    Candidate,
    copy_adapter,
    metrics_of,
    read_json,
    tags_of,
    write_cards,
)
from components.tracking.mlflow import MlflowClient, MlflowException, Run, find_run, start_run
from components.tracking.model import download_version, save_model
from components.tracking.settings import TrackingSettings


@dataclass(frozen=True)
class Version:
    """A registered version of a candidate."""

    number: str
    run_id: str
    candidate: Candidate


class Registry:
    """The registered model of one task.

    Args:
        client: of the store.
        root: the project's folder.
        settings: the ``tracking`` block.
        task: name of the registered model.
    """

    def __init__(self, client: MlflowClient, root: Path, settings: TrackingSettings, task: str) -> None:
        self.client = client
        self.root = root
        self.settings = settings
        self.task = task

    def register(
        self, candidate: Candidate, *, code: Path, config: Mapping[str, Any], provenance: Mapping[str, Any]
    ) -> Version:
        """Registers ``candidate``; the same adapter keeps the version it has, with its scorecards renewed.

        Args:
            candidate: of this task.
            code: the model file for MLflow.
            config: what the model is told when it is loaded: root, task, backbone, split, top, batch_size.
            provenance: tags of the run, should one have to be made.
        """
        known = self._versions().get(candidate.identity)
        if known is None:
            run = self._run(candidate, provenance)
            known = self._create(candidate, run, code, config)
        with tempfile.TemporaryDirectory() as scratch:
            write_cards(candidate, Path(scratch))
            self.client.log_model_artifacts(known.tags["model_id"], scratch, "scorecards")
        self._tag(str(known.version), tags_of(candidate))
        return Version(str(known.version), str(known.run_id), candidate)

    def champion(self) -> tuple[str, dict[str, Any]] | None:
        """Number and validation scorecard of the version that holds the alias, None where none does."""
        number = self._alias()
        if number is None:
            return None
        with tempfile.TemporaryDirectory() as scratch:
            folder = download_version(self.client, self.task, number, Path(scratch))
            return number, read_json(folder / "scorecards" / "val.json")

    def promote(self, versions: Sequence[Version]) -> list[dict[str, Any]]:
        """Lets each version challenge the champion, best first; returns the decisions in the order given."""
        settings = self.settings
        decisions: dict[str, dict[str, Any]] = {}
        cards = [version.candidate.scorecards["val"] for version in versions]
        for index in promotion.best_first(cards, settings.metric):
            version, holder = versions[index], self.champion()
            entry = {"method": version.candidate.method, "seed": version.candidate.seed, "version": version.number}
            if holder is not None and holder[0] == version.number:
                reason = self.client.get_model_version(self.task, version.number).tags.get("decision_reason", "")
                decisions[version.number] = {**entry, "promoted": True, "reason": reason}
                continue
            card = holder[1] if holder else None
            decision = promotion.decide(cards[index], card, metric=settings.metric, margin=settings.margin)
            if decision.promote:
                self.client.set_registered_model_alias(self.task, settings.alias, version.number)
            state = "promoted" if decision.promote else "kept back"
            self._tag(version.number, {"decision": state, "decision_reason": decision.reason})
            decisions[version.number] = {**entry, "promoted": decision.promote, "reason": decision.reason}
        return [decisions[version.number] for version in versions]

    def retire(self, reason: str) -> None:
        """Takes the alias from its holder, so that the best candidate gets it. A person's decision, tagged as such.

        Raises:
            RegistryError: nobody holds the alias.
        """
        number = self._alias()
        if number is None:
            raise RegistryError("nobody holds the alias", where=self.task, found=self.settings.alias)
        self.client.delete_registered_model_alias(self.task, self.settings.alias)
        self._tag(number, {"decision": "retired", "decision_reason": f"retired by hand: {reason}"})

    def export_champion(self, folder: Path) -> dict[str, Any]:
        """Copies the champion's adapter from the registry into ``folder``; returns method, seed, version and hash.

        The registry is the source: a champion may come from an earlier training, whose folder is gone.

        Raises:
            RegistryError: nobody holds the alias.
        """
        number = self._alias()
        if number is None:
            raise RegistryError("nobody holds the alias", where=self.task, found=self.settings.alias)
        with tempfile.TemporaryDirectory() as scratch:
            model = download_version(self.client, self.task, number, Path(scratch))
            storage.publish_folder(model / "artifacts" / "adapter", folder)
        version, card = self.client.get_model_version(self.task, number), read_json(folder / "adapter.json")
        return {
            "method": card["label"],
            "seed": int(version.tags["seed"]),
            "version": number,
            "run_id": version.run_id,
            "sha256": card["sha256"],
        }

    def _run(self, candidate: Candidate, provenance: Mapping[str, Any]) -> str:
        """The training's run; where this store lacks it, a new one with the same parameters."""
        found = find_run(self.client, candidate.run_id)
        params = {"settings": candidate.card.get("settings", {}), "frames": candidate.card.get("frames")}
        run = (
            Run(self.client, found.info.run_id)
            if found
            else start_run(
                self.root,
                self.settings,
                task=self.task,
                method=candidate.method,
                seed=candidate.seed,
                params=params,
                provenance=provenance,
                tags={"backbone": candidate.card.get("backbone", {}), "made_by": "register"},
            )
        )
        # A run made here ends here; the training's own run has ended already.
        with run if found is None else contextlib.nullcontext(), tempfile.TemporaryDirectory() as scratch:
            copy_adapter(candidate.folder, Path(scratch) / "adapter")
            write_cards(candidate, Path(scratch) / "scorecards")
            run.log_folder(Path(scratch), "registered")
            for split, card in candidate.scorecards.items():
                run.log(0, {f"scorecard/{split}/{key}": value for key, value in metrics_of(card).items()})
        return run.run_id

    def _create(self, candidate: Candidate, run_id: str, code: Path, config: Mapping[str, Any]) -> Any:
        client, name = self.client, f"{candidate.method}-{candidate.seed}"
        self._ensure_model()
        experiment = client.get_run(run_id).info.experiment_id
        logged = client.create_logged_model(experiment, name, source_run_id=run_id, model_type="adapter")
        try:
            with tempfile.TemporaryDirectory() as scratch:
                copy_adapter(candidate.folder, Path(scratch) / "adapter")
                folder = Path(scratch) / "model"
                save_model(folder, code=code, adapter=Path(scratch) / "adapter", config=config)
                client.log_model_artifacts(logged.model_id, str(folder))
        except BaseException:
            client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        client.finalize_logged_model(logged.model_id, "READY")
        return client.create_model_version(
            self.task,
            source=logged.artifact_location,
            run_id=run_id,
            model_id=logged.model_id,
            tags={"identity": candidate.identity, "model_id": logged.model_id},
        )

    def _ensure_model(self) -> None:
        try:
            self.client.create_registered_model(
                self.task, description=f"Adapters of one frozen CLIP for text-to-video retrieval on {self.task}."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _versions(self) -> dict[str, Any]:
        """Versions by the identity of their adapter, the oldest where several have one."""
        found = self.client.search_model_versions(f"name = '{self.task}'", order_by=["version_number DESC"])
        return {version.tags["identity"]: version for version in found if "identity" in version.tags}

    def _alias(self) -> str | None:
        try:
            version = self.client.get_model_version_by_alias(self.task, self.settings.alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return str(version.version)

    def _tag(self, number: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self.client.set_model_version_tag(self.task, number, key, value)


def record(alias: str, versions: Sequence[Version], decisions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What ``outputs/registry/<task>.json`` says beside the champion: candidates and decisions."""
    candidates = [
        {
            "method": version.candidate.method,
            "seed": version.candidate.seed,
            "version": version.number,
            "run_id": version.run_id,
            "sha256": version.candidate.card["sha256"],
            "validation": metrics_of(version.candidate.scorecards["val"]),
        }
        for version in versions
    ]
    return {"alias": alias, "candidates": candidates, "decisions": [dict(decision) for decision in decisions]}
