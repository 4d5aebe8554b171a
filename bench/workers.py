"""Workers, waiting for data, and the cost of a kill: real trainings of MV-Adapter on an embedded collection.

    dvc repro ingest
    python bench/workers.py [--parts workers resume] [--epochs 3]

workers  `pipelines/train.py` with one worker on one core, and with two on two: videos per second of the training loop
resume   one process that stops in the middle of an epoch and starts again: the seconds that this adds to a training
         that does not stop, without the start of Python and Ray
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from components.adapters.record import TrainingRecord, read_training
from components.layout import Layout
from components.params import load_params
from components.training.checkpoint import Checkpoints
from components.training.job import Job
from components.training.loop import fit
from components.training.metrics import LOG_EVERY, Log

REPOSITORY = Path(__file__).resolve().parents[1]
METHOD = "mv_adapter"


def borrow(root: Path, task: str, folder: Path) -> None:
    """Makes ``folder`` a project with the settings, weights and frames of the one at ``root``."""
    source, copy = Layout(root), Layout(folder)
    copy.frames(task).parent.mkdir(parents=True)
    copy.params.symlink_to(source.params)
    copy.frames(task).symlink_to(source.frames(task))
    (folder / "models").symlink_to(root / "models")


def train(root: Path, task: str, workers: int, epochs: int) -> TrainingRecord:
    """The record of a training with one core per worker."""
    with TemporaryDirectory() as name:
        borrow(root, task, Path(name))
        command = [sys.executable, str(REPOSITORY / "pipelines" / "train.py"), "--root", name, "--task", task]
        command += ["--method", METHOD, f"execution.workers={workers}", f"training.epochs={epochs}"]
        cores = set(sorted(os.sched_getaffinity(0))[:workers])
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        subprocess.run(
            command,
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        return read_training(Layout(Path(name)).adapter(task, METHOD, 0))


class StoppedError(Exception):
    """Acts as the kill."""


def stopper(after: int) -> Log:
    """Ends a training at its first logged point from step ``after`` on."""

    def log(step: int, metrics: dict[str, float]) -> None:
        if step >= after:
            raise StoppedError

    return log


def resume(root: Path, task: str, epochs: int) -> tuple[float, float, float]:
    """Seconds that a stop in the second epoch costs, seconds before the first step, and seconds of an epoch."""
    params = load_params(Layout(root).params)
    settings = dataclasses.replace(params.training, epochs=epochs)
    job = Job.of(root, dataclasses.replace(params, training=settings), task, METHOD, 0)

    def run(folder: str, log: Log | None) -> float:
        method, store = job.build(), job.store()
        started = time.perf_counter()
        with contextlib.suppress(StoppedError):
            fit(method, store, settings, job.execution, 0, checkpoints=Checkpoints(folder, keep=2), log=log)
        return time.perf_counter() - started

    steps = len(job.store().ids("train")) // settings.batch_size
    with TemporaryDirectory() as one, TemporaryDirectory() as other, TemporaryDirectory() as third:
        whole, few = run(one, None), run(third, stopper(LOG_EVERY))
        epoch = (whole - few) / (steps * epochs - LOG_EVERY) * steps
        start = few - epoch * LOG_EVERY / steps
        return run(other, stopper(steps * 3 // 2)) + run(other, None) - whole, start, epoch


def main() -> None:
    """Runs the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["workers", "resume"], default=["workers", "resume"])
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="a project with frames and weights")
    parser.add_argument("--task", default="shapes-clips")
    parser.add_argument("--epochs", type=int, default=3, help="together more than ten steps")
    args = parser.parse_args()
    root = args.root.resolve()
    torch.set_num_threads(1)
    if "workers" in args.parts:
        records = {workers: train(root, args.task, workers, args.epochs) for workers in (1, 2)}
        for workers, record in records.items():
            rate, waits = record.samples_per_second, record.data_wait_share
            print(f"{workers} workers: {rate:.0f} videos/s, {waits:.1%} of the time waiting for data", flush=True)
        print(f"ratio {records[2].samples_per_second / records[1].samples_per_second:.2f}")
    if "resume" in args.parts:
        cost, start, epoch = resume(root, args.task, args.epochs)
        lost = (cost - start) / epoch
        print(
            f"resume: {cost:.1f} s more than the undisturbed training: {start:.1f} s of start, {lost:.2f} of an epoch"
        )


if __name__ == "__main__":
    main()
