"""A tracking server that stops in the middle of a training: the adapter is published, and nothing is lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_world
from servers import free_address, serving

from components.adapters.card import CARD, WEIGHTS
from components.adapters.record import CURVE, RECORD, read_training
from components.layout import Layout
from components.tracking.outbox import End, Outbox, Point, finished_runs
from components.tracking.runs import TrackedRun
from components.tracking.store import connect

SCRIPT = Path(__file__).resolve().parents[2] / "pipelines" / "train.py"
EPOCHS = 80


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("shared_ray")
def test_the_adapter_is_published_and_the_next_run_sends_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_world.write_project(tmp_path)
    address = free_address()
    variables = {**os.environ, "MLFLOW_TRACKING_URI": address, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--root", str(tmp_path), "--task", tiny_world.TASK, "--method", "vop"]
    settings = [f"training.epochs={EPOCHS}", f"training.validation_every={EPOCHS}", "execution.checkpoint_steps=6"]
    with serving(tmp_path, address):
        process = subprocess.Popen([*command, *settings], env=variables, stderr=subprocess.PIPE, text=True)
        try:
            wait_for_a_checkpoint(tmp_path, process)
        except BaseException:
            process.kill()
            raise
    try:
        assert process.poll() is None, "the training was over before the server stopped"
        errors = process.communicate(timeout=900)[1]
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert errors.count("metrics are kept in") == 1, errors
    assert errors.count("the next run that starts sends it") == 1, errors
    folder = Layout(tmp_path).adapter(tiny_world.TASK, "vop", 0)
    assert {CARD, WEIGHTS, RECORD, CURVE} <= {f.name for f in folder.iterdir()}
    record = read_training(folder)
    run_id = str(record.mlflow_run_id)
    assert finished_runs(tmp_path) == [run_id]
    kept = Outbox(tmp_path, run_id).read()
    assert kept[-1] == End("FINISHED", kept[-1].time)
    losses = {entry.step for entry in kept if isinstance(entry, Point) and entry.name == "loss"}
    assert max(losses) == record.steps

    # The server is back. A run of SQLite's on the same file stands for it, since it starts faster.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = connect(tmp_path, tiny_world.params(tmp_path).tracking)
    assert TrackedRun(client, run_id, tmp_path).deliver()
    steps = [point.step for point in client.get_metric_history(run_id, "loss")]
    assert len(steps) == len(set(steps))
    assert losses <= set(steps)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
    assert finished_runs(tmp_path) == []


def wait_for_a_checkpoint(root: Path, process: subprocess.Popen[str]) -> None:
    """Returns as soon as the training has written one."""
    end = time.monotonic() + 400
    while not list((root / ".reeltune" / "train").glob("*/checkpoints/*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "no checkpoint was written"
        time.sleep(0.1)
