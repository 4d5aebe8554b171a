"""After kill -9 at any time the training continues, and its adapter equals that of an undisturbed one byte for byte.

Without Ray, which takes half a minute a start; tests/pipelines/test_nodes.py kills Ray's workers, drivers and nodes.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import gloo
import pytest
import tiny_world
import torch

from components import heartbeat
from components.evaluation.validation import Validation
from components.training.checkpoint import Checkpoints
from components.training.job import Job, Outcome, Plan, run

KILLS = 17
SETTINGS = (
    "training.epochs=12",
    "training.batch_size=4",
    "training.hard_group=2",
    "execution.checkpoint_steps=2",
    "training.select_on=val",
)


def train(job: Job, plan: Plan, marks: Path) -> Outcome:
    """Runs one rank of a training. It writes a line to a file for everything it begins."""
    with marks.with_name(f"{marks.name}-{os.getpid()}").open("w") as stream:
        mark = heartbeat.mark

        def record(label: str | None = None) -> None:
            print(label, file=stream, flush=True)
            mark(label)

        heartbeat.mark = record
        return run(job, plan, torch.device("cpu"), Validation(5), None)


def wait_for_marks(path: Path, count: int, limit_seconds: float = 60) -> None:
    deadline = time.monotonic() + limit_seconds
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < deadline, f"{path} has not grown to {count} lines"
        time.sleep(0.002)


@pytest.mark.slow
def test_seventeen_kills(tmp_path: Path) -> None:
    """Kills any rank while it makes a step, validates or saves, and sometimes damages a checkpoint too."""
    tiny_world.write_project(tmp_path)
    job = Job.of(tmp_path, tiny_world.params(tmp_path, *SETTINGS), tiny_world.TASK, "mv_adapter", 0)
    other = Job.of(
        tmp_path, tiny_world.params(tmp_path, *SETTINGS, "execution.storage=undisturbed"), job.task, job.method, 0
    )
    plan = job.plan()
    assert other.plan().key == plan.key
    [expected, _] = gloo.spawn(2, train, tmp_path / "expected", other, plan, tmp_path / "marks")

    draw = random.Random(5)
    checkpoints = Checkpoints(f"{job.work_folder(plan.key)}/checkpoints", keep=2)
    killed_at = []
    for number in range(KILLS):
        ranks = gloo.launch(2, train, tmp_path / "killed", job, plan, tmp_path / f"marks-{number}")
        victim = draw.choice(ranks)
        path = tmp_path / f"marks-{number}-{victim.pid}"
        wait_for_marks(path, draw.randint(1, 9))
        time.sleep(draw.uniform(0, 0.03))
        victim.kill()
        for process in ranks:
            process.join(30)
            assert process.exitcode != 0, f"the training ended before kill {number}"
        killed_at.append(path.read_text().splitlines()[-1])
        if number % 6 == 5:
            newest = Path(checkpoints.path(checkpoints.steps()[0]))
            newest.write_bytes(newest.read_bytes()[: -draw.randint(1, 10_000)])
    assert {what.split()[0] for what in killed_at} >= {"step"}, killed_at
    [result, _] = gloo.spawn(2, train, tmp_path / "result", job, plan, tmp_path / "marks-last")

    assert result.result.curve == expected.result.curve
    assert (result.result.epoch, result.result.steps) == (expected.result.epoch, 72)
    adapters = [Path(work.work_folder(plan.key)) / "adapter" / "adapter.safetensors" for work in (job, other)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
