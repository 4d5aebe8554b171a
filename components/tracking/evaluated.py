"""A trained and evaluated adapter, as the stages before left it: what may become a registered version."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import RegistryError
from components.layout import Layout
from components.tracking.flatten import finite, flatten, metric_name

ADAPTER_FILES = ("adapter.json", "adapter.safetensors")
SPLITS = ("val", "test")


@dataclass(frozen=True)
class Candidate:
    """A trained and evaluated adapter.

    Attributes:
        folder: holds adapter.json, adapter.safetensors and training.json.
        card: adapter.json.
        scorecards: by split.
        run_id: of the training's run, None where training logged nothing.
    """

    task: str
    method: str
    seed: int
    folder: Path
    card: dict[str, Any]
    scorecards: dict[str, dict[str, Any]]
    run_id: str | None

    @property
    def identity(self) -> str:
        """Hex SHA-256 of what the adapter computes: weights, method, settings, backbone, frames and words."""
        fields = ("sha256", "method", "settings", "backbone", "frames", "words")
        text = json.dumps({key: self.card.get(key) for key in fields}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def read_candidate(root: Path, task: str, method: str, seed: int) -> Candidate:
    """Reads the files that training and evaluation left under ``outputs/``.

    Raises:
        RegistryError: one is missing or is not JSON; the message names it.
    """
    folder = Layout(root).adapter(task, method, seed)
    cards = Layout(root).scorecards(task, method, seed)
    return Candidate(
        task=task,
        method=method,
        seed=seed,
        folder=folder,
        card=read_json(folder / "adapter.json"),
        scorecards={split: read_json(cards / f"{split}.json") for split in SPLITS},
        run_id=read_json(folder / "training.json").get("mlflow_run_id"),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        RegistryError: missing, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegistryError("missing", where=path, cure="train and evaluate first: `dvc repro`") from None
    except ValueError as error:
        raise RegistryError(f"not JSON: {error}", where=path) from None
    if not isinstance(value, dict):
        raise RegistryError("not a JSON object", where=path, found=type(value).__name__)
    return value


def metrics_of(card: Mapping[str, Any]) -> dict[str, float]:
    """A scorecard's metrics on one level: ``t2v_R@1`` of the whole split, ``temporal/t2v_R@1`` of a subset."""
    flat: dict[str, float] = {}
    for subset, directions in card["metrics"].items():
        prefix = "" if subset == "all" else f"{subset}/"
        for direction, row in directions.items():
            flat.update({f"{prefix}{direction}_{key}": value for key, value in row.items() if _is_number(value)})
    return finite(flat)


def copy_adapter(source: Path, target: Path) -> None:
    """Copies the adapter's two files, and nothing else that stands beside them."""
    target.mkdir(parents=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(source / name, target / name)


def tags_of(candidate: Candidate) -> dict[str, str]:
    """The version's tags: who it is, its size, R@1 on every split."""
    parameters = flatten(candidate.scorecards["test"].get("parameters", {}), "parameters.")
    scores = {
        f"{split}.{metric_name(key)}": f"{value:.2f}"
        for split, card in candidate.scorecards.items()
        for key, value in metrics_of(card).items()
        if key.endswith("R@1")  # the registry's page lists every tag; the scorecards are among the artifacts
    }
    plain = {"task": candidate.task, "method": candidate.method, "seed": candidate.seed, **parameters}
    return {**{key: str(value) for key, value in plain.items()}, "adapter_sha256": candidate.card["sha256"], **scores}


def write_cards(candidate: Candidate, folder: Path) -> None:
    """Writes ``<split>.json`` of every scorecard into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, card in candidate.scorecards.items():
        (folder / f"{split}.json").write_text(json.dumps(card, indent=2, sort_keys=True), encoding="utf-8")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
