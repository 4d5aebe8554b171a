"""``outputs/registry/<task>.json``: which version of a task's model is the champion, and why."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pydantic.dataclasses import dataclass

from components import storage
from components.config import STRICT
from components.errors import RegistryError
from components.records import read_record


@dataclass(frozen=True, config=STRICT)
class Champion:
    """The version that has the alias.

    Attributes:
        method: Key of the method in params.yaml.
        seed: The training's seed.
        version: The version's number in the registry.
        run_id: The version's run in MLflow.
        sha256: Hex hash of the adapter's weights file.
        folder: The exported adapter, relative to the root.
    """

    method: str
    seed: int
    version: str
    run_id: str | None
    sha256: str
    folder: str


@dataclass(frozen=True, config=STRICT)
class CandidateEntry:
    """A version that was considered.

    Attributes:
        method: Key of the method in params.yaml.
        seed: The training's seed.
        version: The version's number in the registry.
        run_id: The version's run in MLflow.
        sha256: Hex hash of the adapter's weights file.
        validation: Metrics on the validation split, such as ``t2v_R@1``.
    """

    method: str
    seed: int
    version: str
    run_id: str
    sha256: str
    validation: dict[str, int | float]


@dataclass(frozen=True, config=STRICT)
class Outcome:
    """Whether a candidate became the champion.

    Attributes:
        method: Key of the method in params.yaml.
        seed: The training's seed.
        version: The version's number in the registry.
        promoted: True if the version got the alias, now or when it was first registered.
        reason: One sentence.
    """

    method: str
    seed: int
    version: str
    promoted: bool
    reason: str


@dataclass(frozen=True, config=STRICT)
class RegistryRecord:
    """The result of the register stage.

    Attributes:
        task: Key of the task in params.yaml, and the model's name in the registry.
        champion: The version that has the alias.
        alias: The alias's name.
        candidates: The versions that were considered.
        decisions: The outcome for each of them, in the same order.
    """

    task: str
    champion: Champion
    alias: str
    candidates: tuple[CandidateEntry, ...]
    decisions: tuple[Outcome, ...]


def read_registry_record(path: Path) -> RegistryRecord:
    """Read the record of a task.

    Raises:
        RegistryError: The file is missing or damaged.
    """
    cure = f"python pipelines/register.py --task {path.stem} (or dvc repro)"
    return read_record(path, RegistryRecord, error=RegistryError, cure=cure)


def write_registry_record(path: Path, record: RegistryRecord) -> None:
    """Write the record of a task. The file appears whole or not at all."""
    storage.write_bytes(path, json.dumps(asdict(record), indent=2).encode() + b"\n")
