"""training.json: a written record comes back unchanged, and a damaged file is refused with its name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from components.adapters.record import ParameterCount, TrainingRecord, read_training, write_training
from components.errors import RegistryError, TrainingError

RECORD = TrainingRecord(
    task="clips",
    method="vop",
    seed=0,
    epoch=2,
    steps=24,
    seconds=9.5,
    samples_per_second=101.25,
    data_wait_share=0.125,
    parameters=ParameterCount(trainable=25, total=100, share=0.25),
    workers=2,
    epochs=3,
    batch_size=8,
    total_seconds=20.0,
    artifact_bytes=400,
    validation={"epoch": 2, "step": 24, "loss": 1.5, "t2v_R@1": 50.0},
    provenance={"commit": "abc", "dirty": False},
    training_key="0123",
    mlflow_run_id="4567",
)


def test_round_trip(tmp_path: Path) -> None:
    write_training(tmp_path, RECORD)
    assert read_training(tmp_path) == RECORD
    text = (tmp_path / "training.json").read_text()
    assert '"epoch": 2,' in text
    write_training(tmp_path, read_training(tmp_path))
    assert (tmp_path / "training.json").read_text() == text


def test_a_record_of_a_run_that_logged_nothing(tmp_path: Path) -> None:
    write_training(tmp_path, replace(RECORD, mlflow_run_id=None, validation={}))
    tree = json.loads((tmp_path / "training.json").read_text())
    assert tree.pop("mlflow_run_id") is None
    (tmp_path / "training.json").write_text(json.dumps(tree))
    assert read_training(tmp_path).mlflow_run_id is None


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"training\.json: missing; run the train stage"):
        read_training(tmp_path)
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(RegistryError, match=r"training\.json: not JSON"):
        read_training(tmp_path, error=RegistryError)
    write_training(tmp_path, RECORD)
    tree = json.loads((tmp_path / "training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps({**tree, "seconds": "long", "step": 1}))
    with pytest.raises(TrainingError, match=r"(?s)2 fault\(s\).*seconds: .*found 'long'.*step: unknown key"):
        read_training(tmp_path)
