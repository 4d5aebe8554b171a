"""training.json: how an adapter was trained. It is in the adapter's folder, next to the validation curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from components.config import STRICT
from components.errors import ReelTuneError, TrainingError
from components.records import read_record, write_record

RECORD = "training.json"
CURVE = "curves.csv"


@dataclass(frozen=True, config=STRICT)
class ParameterCount:
    """How many scalars train.

    Attributes:
        trainable: Scalars of the adapter.
        total: Scalars of the backbone.
        share: ``trainable`` divided by ``total``.
    """

    trainable: int
    total: int
    share: float


@dataclass(frozen=True, config=STRICT)
class TrainingRecord:
    """The content of training.json.

    Attributes:
        task, method, seed: What was trained: a key of ``tasks``, a key of ``methods`` and the seed.
        epoch: The epoch that gave the parameters, from 1; 0 without training.
        steps: Optimiser steps.
        seconds: Time in the training loop, over all starts of the job.
        samples_per_second: Videos per second of training time.
        data_wait_share: Ratio of the training time that was spent waiting for frames.
        parameters: How many scalars train.
        workers: Processes that trained.
        epochs: Epochs of the training; 0 without training.
        batch_size: Videos per step.
        total_seconds: Time of the last start, with Ray's start and the publication.
        artifact_bytes: Size of the weights file.
        validation: The last row of the validation curve; empty without validation.
        provenance: Commit and package versions.
        training_key: Hash of everything that decides the result.
        mlflow_run_id: The MLflow run, None where nothing was logged.
    """

    task: str
    method: str
    seed: int
    epoch: int
    steps: int
    seconds: float
    samples_per_second: float
    data_wait_share: float
    parameters: ParameterCount
    workers: int
    epochs: int
    batch_size: int
    total_seconds: float
    artifact_bytes: int
    validation: dict[str, int | float]
    provenance: dict[str, Any]
    training_key: str
    mlflow_run_id: str | None = None


def read_training(folder: Path, *, error: type[ReelTuneError] = TrainingError) -> TrainingRecord:
    """The training record of the adapter in ``folder``.

    Args:
        folder: The adapter's folder.
        error: The kind of error to raise.

    Raises:
        ReelTuneError: An error of the kind ``error``. training.json is missing or damaged.
    """
    return read_record(folder / RECORD, TrainingRecord, error=error, cure="run the train stage")


def write_training(folder: Path, record: TrainingRecord) -> None:
    """Writes training.json. The file appears whole or not at all."""
    write_record(folder / RECORD, record)
