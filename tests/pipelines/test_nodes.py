"""Training on a cluster of nodes that share only a storage at a URI, while parts of the cluster are killed."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import gloo
import object_store
import psutil
import pytest
import raylets
import tiny_world
import torch
from empty_store import write_empty_store
from raylets import Nodes

from components import storage
from components.adapters.file import load_adapter
from components.adapters.record import CURVE, read_training
from components.backbones.load import load_backbone
from components.evaluation.validation import Validation
from components.tracking.store import connect
from components.training.checkpoint import Checkpoints
from components.training.job import Job, run

s3, s3_server = object_store.s3, object_store.s3_server
REPOSITORY = Path(__file__).resolve().parents[2]
EPOCHS, STEPS = 15, 90
SETTINGS = (
    f"training.epochs={EPOCHS}",
    "training.batch_size=4",
    "training.hard_group=2",
    "training.validation_every=5",
    "execution.checkpoint_steps=1",
    "execution.max_failures=2",
)


@dataclass
class World:
    """A cluster, a training on it, and its checkpoints."""

    nodes: Nodes
    job: Job
    settings: tuple[str, ...]
    checkpoints: Checkpoints
    draw: random.Random = field(default_factory=lambda: random.Random(1))

    def train(self, *overrides: str) -> subprocess.Popen[str]:
        """Starts a driver in a separate working directory."""
        elsewhere = self.job.root.parent / "driver"
        elsewhere.mkdir(exist_ok=True)
        command = [sys.executable, str(REPOSITORY / "pipelines" / "train.py"), "--root", str(self.job.root)]
        command += ["--task", self.job.task, "--method", self.job.method, *self.settings, *overrides]
        environment = {**self.nodes.environment, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=elsewhere, env=environment, stderr=subprocess.PIPE, text=True)

    def workers_after_some_steps(self, driver: subprocess.Popen[str]) -> dict[int, psutil.Process]:
        """The training's workers by node, after it has made some more steps."""
        goal = max(self.checkpoints.steps(), default=0) + self.draw.randint(2, 12)
        # Far more than an idle machine needs: a busy one takes minutes to start Ray on four nodes.
        deadline = time.monotonic() + 400
        while max(self.checkpoints.steps(), default=0) < goal:
            if driver.poll() is not None:
                pytest.fail(f"the driver ended with {driver.returncode}: {driver.communicate()[1]}")
            assert time.monotonic() < deadline, f"step {goal} was not reached, only {self.checkpoints.steps()}"
            time.sleep(0.2)  # each look is a request to the storage, which shares the processors
        found = {node: self.nodes.processes(node, "TrainWorker") for node in range(len(self.nodes.raylets))}
        workers = {node: processes[0] for node, processes in found.items() if processes}
        assert len(workers) == 2, f"workers on nodes {list(workers)}"
        return workers


def in_gloo(job: Job) -> None:
    torch.set_num_threads(1)
    run(job, job.plan(), torch.device("cpu"), Validation(5), None)


def gone(workers: dict[int, psutil.Process]) -> bool:
    return not psutil.wait_procs(list(workers.values()), timeout=60)[1]


def kill_a_worker_and_a_node_and_stop_a_worker(world: World) -> None:
    """The first driver survives the two losses. The stopped worker leads to an error that names it."""
    driver = world.train("execution.timeout_seconds=20")
    workers = world.workers_after_some_steps(driver)
    workers[world.draw.choice(sorted(workers))].kill()

    workers = world.workers_after_some_steps(driver)
    world.nodes.lose(world.draw.choice(sorted(workers)))

    workers = world.workers_after_some_steps(driver)
    workers[world.draw.choice(sorted(workers))].send_signal(signal.SIGSTOP)
    _, errors = driver.communicate(timeout=400)
    assert driver.returncode == 1, errors
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert " did not finish step " in line
    assert " within 20 s and does not answer" in line
    assert gone(workers)


def kill_the_driver(world: World) -> None:
    driver = world.train()
    workers = world.workers_after_some_steps(driver)
    driver.kill()
    driver.wait()
    assert gone(workers)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_worker_a_node_and_drivers_are_lost(s3: str, tmp_path: Path) -> None:
    """Each loss comes in a random step. The adapter equals that of an undisturbed training byte for byte."""
    root, node_folders = tmp_path / "project", [tmp_path / f"node-{number}" for number in range(4)]
    for path in (root, *node_folders):
        path.mkdir()
    tiny_world.write_project(root)
    write_empty_store(root)
    settings = (*SETTINGS, f"execution.storage={s3}")
    job = Job.of(root, tiny_world.params(root, *settings), tiny_world.TASK, "vop", 0)
    plan = job.plan()
    folder = job.work_folder(plan.key)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with raylets.cluster(node_folders, [0, 1, 1, 1], {**clean, "PYTHONPATH": str(REPOSITORY)}) as nodes:
        world = World(nodes, job, settings, Checkpoints(storage.join(folder, "checkpoints"), keep=2))
        kill_a_worker_and_a_node_and_stop_a_worker(world)
        kill_the_driver(world)
        last = world.train()
        _, errors = last.communicate(timeout=400)
        assert last.returncode == 0, errors
        assert "resumed after step " in errors

    undisturbed = Job.of(
        root, tiny_world.params(root, *SETTINGS, "execution.storage=undisturbed"), job.task, job.method, 0
    )
    gloo.spawn(2, in_gloo, tmp_path / "ranks", undisturbed)
    expected = Path(undisturbed.work_folder(plan.key)) / "adapter" / "adapter.safetensors"
    assert (job.adapter_folder / "adapter.safetensors").read_bytes() == expected.read_bytes()
    check_what_is_left(job, folder, node_folders)


def check_what_is_left(job: Job, folder: str, node_folders: list[Path]) -> None:
    """The adapter, its record and its history are left, and no working files, on any node."""
    assert storage.size(folder) is None
    assert [list(node.iterdir()) for node in node_folders] == [[]] * len(node_folders)
    assert list((job.root / ".reeltune" / "train").iterdir()) == []
    record = read_training(job.adapter_folder)
    assert (record.workers, record.steps, record.epochs) == (2, STEPS, EPOCHS)
    with (job.adapter_folder / CURVE).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(5, EPOCHS + 1, 5)]
    assert float(rows[-1]["t2v_R@1"]) == record.validation["t2v_R@1"]
    assert record.mlflow_run_id is not None
    loaded = load_adapter(job.adapter_folder, load_backbone(job.backbone, job.root))
    assert record.parameters.trainable == sum(p.numel() for p in loaded.trainable().values())
    client, run_id = connect(job.root, tiny_world.params(job.root).tracking), record.mlflow_run_id
    for name, steps in (("val_t2v_R1", range(30, STEPS + 1, 30)), ("frames_per_second", range(10, STEPS + 1, 10))):
        assert {point.step for point in client.get_metric_history(run_id, name)} == set(steps)
    assert client.get_run(run_id).info.status == "FINISHED"
