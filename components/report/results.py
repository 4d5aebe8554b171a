"""What training and evaluation found: one result per task, method and seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from components import storage
from components.adapters.card import FILES, read_card
from components.adapters.record import RECORD, read_training
from components.config import STRICT
from components.errors import DataError
from components.evaluation.card import Binary, Direction, Metrics, Moments, Rescored, read_scorecard
from components.evaluation.card_text import warnings_of
from components.layout import Layout


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdapterResult:
    """One adapter on the test split. results.json is a list of these.

    Attributes:
        task: Key of the task in params.yaml.
        method: Key of the method in params.yaml.
        seed: The training's seed.
        metrics: Metrics by part of the test split and direction.
        rescored: Metrics by the name of the re-scoring.
        binary: The choice between a video and its reversal, where the test split has reversals.
        moments: Texts found within their videos, where the test split has texts with spans.
        warnings: The warnings of the scorecard.
        trainable_parameters: Scalars of the adapter.
        backbone_share: These divided by the scalars of the backbone.
        artifact_bytes: Size of the adapter's files.
        training_seconds: Time in the training loop.
        backbone: The backbone's name, "" in a file of an earlier release.
    """

    task: str
    method: str
    seed: int
    metrics: dict[str, dict[Direction, Metrics]]
    rescored: dict[str, Rescored] = field(default_factory=dict)
    binary: dict[Direction, Binary] = field(default_factory=dict)
    moments: Moments | None = None
    warnings: tuple[str, ...] = ()
    trainable_parameters: int
    backbone_share: float
    artifact_bytes: int
    training_seconds: float
    backbone: str = ""


# Fields that are left out of results.json if there is nothing in them.
SPARSE = ("binary", "moments")


def collect_results(root: Path, wanted: Iterable[tuple[str, str, int]]) -> tuple[list[AdapterResult], list[str]]:
    """The results of what has been evaluated, and the names of what has not.

    Args:
        root: The project's folder.
        wanted: Task, method and seed of each adapter, in the order of the tables.

    Raises:
        DataError: Nothing has been evaluated.
        ReelTuneError: A file is missing or damaged.
    """
    layout = Layout(root)
    results, missing = [], []
    for task, method, seed in wanted:
        folder, scorecards = layout.adapter(task, method, seed), layout.scorecards(task, method, seed)
        if (scorecards / "test.json").exists() and (folder / RECORD).exists():
            results.append(_result(folder, scorecards))
        else:
            missing.append(f"{task}/{method}-{seed}")
    if not results:
        raise DataError("no scorecards", where=layout.all_scorecards, cure="train and evaluate first: dvc repro")
    return results, missing


def _result(folder: Path, scorecards: Path) -> AdapterResult:
    scorecard, adapter = read_scorecard(scorecards, "test"), read_card(folder)
    return AdapterResult(
        task=scorecard.task,
        method=scorecard.method,
        seed=scorecard.seed,
        metrics=scorecard.metrics,
        rescored=scorecard.rescored,
        binary=scorecard.binary,
        moments=scorecard.moments,
        warnings=tuple(warnings_of(scorecard)),
        trainable_parameters=adapter.trainable,
        backbone_share=adapter.share,
        artifact_bytes=sum((folder / name).stat().st_size for name in FILES),
        training_seconds=read_training(folder).seconds,
        backbone=adapter.backbone.model,
    )


def write_results(path: Path, results: Sequence[AdapterResult]) -> None:
    """Writes results.json. The file appears whole or not at all."""
    rows = [{k: v for k, v in asdict(result).items() if v or k not in SPARSE} for result in results]
    text = json.dumps(rows, indent=1)
    storage.write_bytes(path, (text + "\n").encode())


def read_results(path: Path) -> list[AdapterResult]:
    """Reads results.json.

    Raises:
        DataError: The file is missing or damaged.
    """
    if not path.exists():
        raise DataError("no report yet", where=path, cure="dvc repro")
    try:
        return TypeAdapter(list[AdapterResult]).validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"])) or "(top level)"
        raise DataError(
            f"damaged, {error.error_count()} fault(s), the first at {key}: {fault['msg']}", where=path, cure="dvc repro"
        ) from None
