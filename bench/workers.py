"""Workers, waiting for data, and what a kill costs: real trainings of MV-Adapter on an embedded collection.

    dvc repro ingest
    python bench/workers.py [--epochs 3]

workers  `pipelines/train.py` with one worker on one core and with two on two: videos per second of the training itself
resume   one process that is stopped in the middle of an epoch and started again: seconds beyond a training that is not
         stopped, without the start of Python and Ray
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from components.params import load_params
from components.training.checkpoint import Checkpoints
from components.training.job import Job
from components.training.loop import fit
from components.training.metrics import LOG_EVERY, Log

ROOT = Path(__file__).resolve().parents[1]
TASK, METHOD = "shapes-clips", "mv_adapter"


def borrow(folder: Path) -> None:
    """A root of its own, with the project's settings, weights and frames."""
    (folder / "outputs" / "frames").mkdir(parents=True)
    for name in ("params.yaml", "models", f"outputs/frames/{TASK}"):
        (folder / name).symlink_to(ROOT / name)


def train(workers: int, epochs: int) -> dict[str, float]:
    """The figures of a training whose processes have ``workers`` cores."""
    with TemporaryDirectory() as name:
        root = Path(name)
        borrow(root)
        command = [sys.executable, str(ROOT / "pipelines" / "train.py"), "--root", name, "--task", TASK]
        command += ["--method", METHOD, f"execution.workers={workers}", f"training.epochs={epochs}"]
        cores = set(sorted(os.sched_getaffinity(0))[:workers])
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(
            command,
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        record = root / "outputs" / "adapters" / TASK / f"{METHOD}-0" / "training.json"
        found: dict[str, float] = json.loads(record.read_text(encoding="utf-8"))
        return found


class StoppedError(Exception):
    """Stands for the kill."""


def stopper(after: int) -> Log:
    """Ends a training at the first figures from step ``after`` on."""

    def log(step: int, figures: dict[str, float]) -> None:
        if step >= after:
            raise StoppedError

    return log


def resume(epochs: int) -> tuple[float, float, float]:
    """Seconds that a stop in the second epoch costs, of a start before its first step, and of an epoch."""
    params = load_params(ROOT / "params.yaml")
    settings = dataclasses.replace(params.training, epochs=epochs)
    job = Job.of(ROOT, dataclasses.replace(params, training=settings), TASK, METHOD, 0)

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
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    records = {workers: train(workers, args.epochs) for workers in (1, 2)}
    for workers, record in records.items():
        rate, waits = record["samples_per_second"], record["data_wait_share"]
        print(f"{workers} workers: {rate:.0f} videos/s, {waits:.1%} of the time waiting for data", flush=True)
    print(f"ratio {records[2]['samples_per_second'] / records[1]['samples_per_second']:.2f}")
    cost, start, epoch = resume(args.epochs)
    lost = (cost - start) / epoch
    print(f"resume: {cost:.1f} s beyond the undisturbed training: {start:.1f} s of start, {lost:.2f} of an epoch")


if __name__ == "__main__":
    main()
