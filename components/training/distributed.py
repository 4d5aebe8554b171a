"""Ray Train around the loop: workers, their replacement after a crash, and the publication of the adapter.

The loop keeps its own checkpoints and progress in a folder that all workers share, so Ray's part is to place workers,
connect them and start them again. What Ray stores of its own is thrown away: a Ray run of the same name would otherwise
count as finished and train nothing.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from components import provenance, storage
from components.adapters.card import read_card
from components.cluster import ray_session
from components.errors import ReelTuneError, TrainingError
from components.training.job import Job, Plan, run
from components.training.loop import Log, Validate
from components.training.progress import ProgressFollower, ProgressWriter

logger = logging.getLogger(__name__)

# Two workers and Ray's own actors share two cores: a whole CPU each would leave none for anything else, and wait for
# ever (Ray counts, it does not measure).
WORKER_CPUS = 0.5

# Each of these is a process that imports PyTorch, or a wait, at the start of every training.
LEAN = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}

CURVE_FILE = "curves.csv"
RECORD_FILE = "training.json"
PROGRESS_FILE = "progress.jsonl"
FAULT_FILE = "fault.txt"


def train(job: Job, plan: Plan, validate: Validate, log: Log, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """Trains, continuing what was interrupted, and publishes ``outputs/adapters/<task>/<method>-<seed>/``.

    Methods without trainable parameters do not start Ray.

    Args:
        job: what to train.
        plan: of the job.
        validate: measures the validation split; must be picklable.
        log: gets steps and figures, in this process.
        extra: goes into training.json.

    Returns:
        training.json.

    Raises:
        TrainingError: workers were lost more than ``max_failures`` times, or the loop or a reader raised.
    """
    started = time.perf_counter()
    folder = job.work_folder(plan.key)
    if plan.trains:
        outcome = _with_ray(job, plan, validate, log)
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        outcome = {**run(job, plan, device, validate, log), "workers": 1}
    record = _record(
        job, folder / "adapter", outcome, time.perf_counter() - started, {"training_key": plan.key, **(extra or {})}
    )
    storage.publish_folder(folder / "adapter", job.adapter_folder)
    for left_over in folder.parent.glob(f"{job.name}-{'[0-9a-f]' * 12}"):
        shutil.rmtree(left_over)
    return record


def _with_ray(job: Job, plan: Plan, validate: Validate, log: Log) -> dict[str, Any]:
    folder = job.work_folder(plan.key)
    for key, value in LEAN.items():
        os.environ.setdefault(key, value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAULT_FILE).unlink(missing_ok=True)
    # Messages come through the progress file; Ray's copies of the workers' output would double them.
    with (
        ray_session(job.root, job.params.ray, log_to_driver=False),
        ProgressFollower(folder / PROGRESS_FILE, log),
    ):
        return _fit(job, plan, validate)


def _fit(job: Job, plan: Plan, validate: Validate) -> dict[str, Any]:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    settings, folder = job.params.training, job.work_folder(plan.key)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = min(settings.workers, gpus) if gpus else settings.workers
    if workers < settings.workers:
        logger.warning("%d GPUs for %d workers: training with %d", gpus, settings.workers, workers)
    trainer = TorchTrainer(
        _worker,  # type: ignore[arg-type]  # Ray's annotation has no return value, its Result has
        train_loop_config={"job": job, "plan": plan, "validate": validate},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": WORKER_CPUS, **({"GPU": 1} if gpus else {})},
        ),
        torch_config=TorchConfig(timeout_s=max(1, round(settings.timeout_seconds))),
        run_config=RunConfig(
            name=f"{os.getpid()}-{time.time_ns()}",
            storage_path=str(folder / "ray"),
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )
    try:
        result: Any = trainer.fit()
    except TrainingFailedError as error:
        fault = folder / FAULT_FILE
        if fault.exists():
            raise TrainingError(fault.read_text(encoding="utf-8")) from None
        raise TrainingError(
            "training workers were lost",
            where=job.name,
            found=" ".join(str(error).split())[-500:],
            cure="run it again: it continues from the last checkpoint",
        ) from error
    finally:
        shutil.rmtree(folder / "ray", ignore_errors=True)
    return {**result.return_value, "workers": workers}


def _worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What Ray runs in each worker."""
    import ray.train
    import ray.train.torch

    job, plan, validate = settings["job"], settings["plan"], settings["validate"]
    folder = job.work_folder(plan.key)
    fault = folder / FAULT_FILE
    if fault.exists():
        # A fault of the data or the settings would only happen again.
        raise TrainingError(fault.read_text(encoding="utf-8"))
    context = ray.train.get_context()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    writer = None
    if context.get_world_rank() == 0:
        writer = ProgressWriter(folder / PROGRESS_FILE)
        package = logging.getLogger("components")
        package.setLevel(logging.INFO)
        package.addHandler(writer)
    try:
        device = ray.train.torch.get_device()
        return run(job, plan, device, validate, writer.figures if writer else None)
    except ReelTuneError as error:
        storage.write_bytes(fault, str(error).encode())
        raise


def _record(job: Job, adapter: Path, outcome: dict[str, Any], seconds: float, extra: dict[str, Any]) -> dict[str, Any]:
    """Completes the adapter folder with training.json and the validation curve."""
    curve = outcome.pop("curve")
    card = read_card(adapter)
    record = {
        "task": job.task,
        "method": job.method,
        "seed": job.seed,
        **outcome,
        "epochs": job.params.training.epochs if outcome["steps"] else 0,
        "batch_size": job.params.training.batch_size,
        "total_seconds": round(seconds, 3),
        "artifact_bytes": card["bytes"],
        "validation": curve[-1] if curve else {},
        "provenance": provenance.collect(job.root),
        **extra,
    }
    storage.write_bytes(adapter / RECORD_FILE, (json.dumps(record, indent=1) + "\n").encode())
    storage.write_bytes(adapter / CURVE_FILE, _curve_text(curve).encode())
    return record


def _curve_text(curve: list[dict[str, float]]) -> str:
    columns = ["epoch", "step", "loss"]
    columns += [name for row in curve[:1] for name in row if name not in columns]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(curve)
    return text.getvalue()
