"""A search over settings on a real Ray cluster is killed in the middle and continues, with its runs in MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_world
from empty_store import write_empty_store
from mlflow import MlflowClient

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = ["--task", tiny_world.TASK, "--method", "vop", "--trials", "4", "--search", "lr=1e-4..1e-2"]


def start(root: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPOSITORY / "pipelines" / "tune.py"), "--root", str(root), *COMMAND]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, "training.epochs=2"], cwd=root, env=environment, **pipes)  # type: ignore[call-overload]


def finished_trials(client: MlflowClient) -> dict[str, str]:
    """The names of finished trial runs, by run id."""
    experiment = client.get_experiment_by_name(tiny_world.TASK)
    if experiment is None:
        return {}
    runs = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'")
    return {run.info.run_id: run.info.run_name for run in runs if "-trial-" in run.info.run_name}


def first_finished_trials(client: MlflowClient, process: subprocess.Popen[str]) -> dict[str, str]:
    """Waits until a trial of a running search has ended."""
    done: dict[str, str] = {}
    deadline = time.monotonic() + 240
    while not done:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, "no trial has ended"
        time.sleep(0.5)
        done = finished_trials(client)
    return done


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_killed_search_continues(tmp_path: Path) -> None:
    tiny_world.write_project(tmp_path)
    write_empty_store(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    first = start(tmp_path)
    try:
        done = first_finished_trials(client, first)
    finally:
        first.kill()
        first.communicate()
    # More trials may have ended between the look and the kill.
    ended = finished_trials(client)

    second = start(tmp_path)
    out, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert "continuing the search" in err
    assert "Failed to fetch metrics" not in err
    after = finished_trials(client)
    assert done.keys() <= after.keys()
    # There is an extra run if a trial ended between Ray Tune's last save of its state and the kill.
    assert len(set(after.values())) == 4 <= len(after) <= 4 + len(ended)

    record = json.loads((tmp_path / "reports" / "tune" / f"{tiny_world.TASK}-vop-0.json").read_text())
    assert len(record) == 4
    assert record[0]["epoch"] == 2
    assert tiny_world.LR in [trial["overrides"]["methods.vop.lr"] for trial in record]
    best = max(trial["figures"]["t2v_R@1"] for trial in record if trial["epoch"] == 2)
    assert record[0]["figures"]["t2v_R@1"] == best
    assert f"best: methods.vop.lr={record[0]['overrides']['methods.vop.lr']:.3g}" in out

    experiment = client.get_experiment_by_name(tiny_world.TASK)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = {run.info.run_id for run in runs if run.info.run_name == "vop-search-0"}
    assert len(parents) == 1
    trials = [run for run in runs if run.info.run_id in after]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == parents
    for run in trials:
        # A trial that was cut off starts again in the same run.
        steps = {point.step for point in client.get_metric_history(run.info.run_id, "val_t2v_R1")}
        assert steps in ({1}, {1, 2})
        assert float(run.data.params["search.methods.vop.lr"]) > 0
