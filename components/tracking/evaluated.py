"""A trained and evaluated adapter, as the earlier stages left it: what may become a registered version."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from components.adapters.card import FILES, AdapterCard, read_card
from components.adapters.record import RECORD
from components.errors import RegistryError
from components.evaluation.card import WHOLE, ScorecardHead
from components.layout import Layout
from components.records import read_record, read_tree
from components.tracking.flatten import finite, metric_name

SPLITS = ("val", "test")
CURE = "train and evaluate first: `dvc repro`"


@dataclass(frozen=True)
class EvaluatedAdapter:
    """A trained adapter with its scorecards.

    Attributes:
        task: Key of the task in params.yaml.
        method: Key of the method in params.yaml.
        seed: The training's seed.
        folder: The folder that contains adapter.json and adapter.safetensors.
        card: The content of adapter.json.
        scorecards: The head of the scorecard of each split.
        run_id: The training's run in MLflow, None if the training logged nothing.
    """

    task: str
    method: str
    seed: int
    folder: Path
    card: AdapterCard
    scorecards: dict[str, ScorecardHead]
    run_id: str | None

    @property
    def name(self) -> str:
        """``<method>-<seed>``."""
        return f"{self.method}-{self.seed}"

    @property
    def identity(self) -> str:
        """Hex SHA-256 of what the adapter computes: weights, method, settings, backbone, frames and tokens.

        Versions have it as a tag, so it must be the same in every release.
        """
        fields, card = ("sha256", "method", "settings", "backbone", "frames", "words"), self.card.to_dict()
        text = json.dumps({key: card[key] for key in fields}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def read_evaluated(root: Path, task: str, method: str, seed: int) -> EvaluatedAdapter:
    """Read what training and evaluation left under ``outputs/``.

    Raises:
        AdapterError: adapter.json is missing or damaged.
        RegistryError: Another file is missing or damaged. The message names it.
    """
    layout = Layout(root)
    folder, scorecards = layout.adapter(task, method, seed), layout.scorecards(task, method, seed)
    return EvaluatedAdapter(
        task=task,
        method=method,
        seed=seed,
        folder=folder,
        card=read_card(folder),
        scorecards={
            split: read_record(scorecards / f"{split}.json", ScorecardHead, error=RegistryError, cure=CURE)
            for split in SPLITS
        },
        # The rest of this record does not matter here, so records of older releases need not be complete.
        run_id=read_tree(folder / RECORD, error=RegistryError, cure=CURE).get("mlflow_run_id"),
    )


def metrics_of(scorecard: ScorecardHead) -> dict[str, float]:
    """A scorecard's metrics on one level: ``t2v_R@1`` for the whole split, ``temporal/t2v_R@1`` for a part.

    The choice between a video and its reversal is ``binary/t2v_accuracy``.
    """
    flat: dict[str, float] = {}
    for subset, directions in scorecard.metrics.items():
        prefix = "" if subset == WHOLE else f"{subset}/"
        for direction, row in directions.items():
            flat.update({f"{prefix}{direction}_{key}": value for key, value in row.items()})
    flat.update({f"binary/{direction}_accuracy": found.accuracy for direction, found in scorecard.binary.items()})
    return finite(flat)


def copy_adapter(source: Path, target: Path) -> None:
    """Copy the adapter's two files and nothing else from ``source`` to the new folder ``target``."""
    target.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(source / name, target / name)


def tags_of(adapter: EvaluatedAdapter) -> dict[str, str]:
    """The version's tags: task, method, seed and backbone, the number of parameters, and R@1 on every split."""
    size = adapter.scorecards["test"].parameters
    parameters = {} if size is None else {f"parameters.{key}": value for key, value in asdict(size).items()}
    scores = {
        f"{split}.{metric_name(key)}": f"{value:.2f}"
        for split, scorecard in adapter.scorecards.items()
        for key, value in metrics_of(scorecard).items()
        if key.endswith("R@1")  # the registry's page lists every tag, and the artifacts include the whole scorecards
    }
    plain = {"task": adapter.task, "method": adapter.method, "seed": adapter.seed}
    plain |= {"backbone": adapter.card.backbone.model, **parameters}
    return {**{key: str(value) for key, value in plain.items()}, "adapter_sha256": adapter.card.sha256, **scores}


def write_scorecards(adapter: EvaluatedAdapter, folder: Path) -> None:
    """Write each scorecard as ``<split>.json`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, scorecard in adapter.scorecards.items():
        (folder / f"{split}.json").write_text(scorecard.to_json(), encoding="utf-8")
