"""Ray Train around the loop: workers, their replacement after a crash, and the publication of the adapter.

The loop keeps its own checkpoints where all workers see them, so Ray's part is to place workers, connect them, start
them again and carry what they tell. What Ray stores of its own is thrown away: a Ray run of the same name would
otherwise count as finished and train nothing.
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

from components import storage
from components.adapters.card import read_card
from components.cluster import ray_session
from components.errors import ReelTuneError, TrainingError
from components.layout import Layout
from components.training.job import Job, Plan, run
from components.training.loop import Log, Validate
from components.training.progress import Mailbox, ProgressFollower, ProgressWriter
from components.training.watchdog import COLLECTIVE_SECONDS

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
        TrainingError: ``execution.storage`` is not usable, workers were lost more than ``max_failures`` times, a worker
            was stuck, or the loop or a reader raised.
    """
    started = time.perf_counter()
    folder = job.work_folder(plan.key)
    if plan.trains:
        outcome = _with_ray(job, plan, validate, log)
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        outcome = {**run(job, plan, device, validate, log), "workers": 1}
    local = Layout(job.root).training_work
    adapter = local / f"{job.name}-{plan.key[:12]}" / "published"
    for name in storage.list_files(storage.join(folder, "adapter")):
        storage.write_bytes(adapter / name, storage.read_bytes(storage.join(folder, "adapter", name)))
    record = _record(job, plan, adapter, outcome, time.perf_counter() - started, extra or {})
    storage.publish_folder(adapter, job.adapter_folder)
    storage.delete_folder(folder)
    # Those of other settings too, but only the project's own: elsewhere they may be somebody's.
    for left_over in local.glob(f"{job.name}-{'[0-9a-f]' * 12}"):
        shutil.rmtree(left_over)
    return record


def _with_ray(job: Job, plan: Plan, validate: Validate, log: Log) -> dict[str, Any]:
    files, path = storage.filesystem(job.work_folder(plan.key))
    try:
        files.create_dir(path, recursive=True)
    except OSError as error:
        raise TrainingError(
            "not usable",
            where="execution.storage",
            found=job.execution.storage or str(Layout(job.root).training_work),
            expected="a folder or URI that can be written to",
            cure=str(error),
        ) from None
    for key, value in LEAN.items():
        os.environ.setdefault(key, value)
    # Messages come through the mailbox; Ray's copies of the workers' output would double them.
    with ray_session(job.root, job.ray, log_to_driver=False):
        import ray

        mailbox = _mailbox()
        with ProgressFollower(lambda: ray.get(mailbox.take.remote()), log):
            return _fit(job, plan, validate, mailbox)


def _mailbox() -> Any:
    """A mailbox on this machine, which no lost one takes along."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()


def _fit(job: Job, plan: Plan, validate: Validate, mailbox: Any) -> dict[str, Any]:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    settings, micro_batches = job.execution, job.training.micro_batches
    rays_own = storage.join(job.work_folder(plan.key), "ray")
    files, path = storage.filesystem(rays_own)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    # Fewer GPUs than workers: as many as divide the micro_batches, so that the adapter stays the same.
    few = [count for count in range(1, min(settings.workers, gpus) + 1) if micro_batches % count == 0]
    workers = max(few) if 0 < gpus < settings.workers else settings.workers
    if workers < settings.workers:
        logger.warning("%d GPUs for %d workers: training with %d", gpus, settings.workers, workers)
    trainer = TorchTrainer(
        _worker,  # type: ignore[arg-type]  # Ray's annotation has no return value, its Result has
        train_loop_config={"job": job, "plan": plan, "validate": validate, "mailbox": mailbox},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": WORKER_CPUS, **({"GPU": 1} if gpus else {})},
            # GPUs of one machine are the closest; half a CPU is only asked for, and packed workers would share it.
            placement_strategy="PACK" if gpus else "SPREAD",
        ),
        torch_config=TorchConfig(timeout_s=round(settings.timeout_seconds + COLLECTIVE_SECONDS)),
        run_config=RunConfig(
            name=f"{os.getpid()}-{time.time_ns()}",
            storage_path=path,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )
    try:
        result: Any = trainer.fit()
    except TrainingFailedError as error:
        if fault := ray.get(mailbox.fault.remote()):
            raise TrainingError(fault) from None
        raise TrainingError(
            "training workers were lost",
            where=job.name,
            found=" ".join(str(error).split())[-500:],
            cure="run it again: it continues from the last checkpoint",
        ) from error
    finally:
        storage.delete_folder(rays_own)
    return {**result.return_value, "workers": workers}


def _worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What Ray runs in each worker."""
    import ray
    import ray.train.torch

    mailbox = settings["mailbox"]
    if fault := ray.get(mailbox.fault.remote()):
        # A fault of the data or the settings would only happen again.
        raise TrainingError(fault)
    context = ray.train.get_context()
    # Not the cores there are: how a product is cut among threads decides about its rounding.
    torch.set_num_threads(settings["job"].training.threads)
    figures = None
    if context.get_world_rank() == 0:
        writer = ProgressWriter(mailbox.post.remote)
        figures = writer.figures
        package = logging.getLogger("components")
        package.setLevel(logging.INFO)
        package.addHandler(writer)

    def report(text: str) -> None:
        ray.get(mailbox.report.remote(text))

    try:
        device = ray.train.torch.get_device()
        return run(settings["job"], settings["plan"], device, settings["validate"], figures, report)
    except ReelTuneError as error:
        report(str(error))
        raise
    finally:
        # Calls arrive in order: after an answer to this one, all that was posted is there.
        ray.get(mailbox.fault.remote())


def _record(
    job: Job, plan: Plan, adapter: Path, outcome: dict[str, Any], seconds: float, extra: dict[str, Any]
) -> dict[str, Any]:
    """Completes the adapter folder with training.json and the validation curve."""
    curve = outcome.pop("curve")
    card = read_card(adapter)
    record = {
        "task": job.task,
        "method": job.method,
        "seed": job.seed,
        **outcome,
        "epochs": job.training.epochs if outcome["steps"] else 0,
        "batch_size": job.training.batch_size,
        "total_seconds": round(seconds, 3),
        "artifact_bytes": card.bytes,
        "validation": curve[-1] if curve else {},
        "provenance": plan.came_from,
        "training_key": plan.key,
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
