"""Ray Train around the loop: workers, their replacement after a crash, and the publication of the adapter.

The loop saves its checkpoints where all workers see them. Ray places the workers, connects them, starts them again and
carries their messages. What Ray itself stores is thrown away, since a Ray run of the same name would otherwise count as
finished and train nothing.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import pickle
import shutil
import time
from typing import Any

import torch

from components import storage
from components.adapters.card import read_card
from components.adapters.record import CURVE, TrainingRecord, write_training
from components.cluster import is_local, ray_session
from components.errors import ConfigError, ReelTuneError, TrainingError
from components.layout import Layout
from components.processes import check_gpu
from components.samecode import on_worker
from components.training.job import Job, Outcome, Plan, run
from components.training.mailbox import Mailbox, MailboxFollower, MailboxWriter
from components.training.metrics import Log
from components.training.selection import Validate
from components.training.watchdog import COLLECTIVE_SECONDS

logger = logging.getLogger(__name__)

# Two workers and Ray's actors share two cores. Workers of a whole CPU each would leave none for the actors, and Ray
# would wait forever (it counts CPUs and does not measure load).
WORKER_CPUS = 0.5

# Each of these costs a process that imports PyTorch, or a wait, at the start of every training.
LEAN = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def prepare(job: Job) -> Plan:
    """The job's plan, after everything that can be checked before a run is recorded and Ray starts.

    Raises:
        ReelTuneError: As :meth:`Job.plan`, or RAY_ADDRESS names no cluster.
        ConfigError: The workers need more CPUs than the local cluster will have, and would wait for ever.
        DataError: ``execution.storage`` is no usable URI.
        TrainingError: ``execution.storage`` cannot be written to.
    """
    logger.info("%s: checking the settings, %s and the frames", job.name, job.backbone.model)
    plan = job.plan()
    if plan.trains:
        if is_local():
            _check_room(job)
        _make_work_folder(job, plan)
    return plan


def _check_room(job: Job) -> None:
    workers = _workers(job, torch.cuda.device_count())
    if workers * WORKER_CPUS > job.ray.num_cpus:
        raise ConfigError(
            f"{workers} workers need {workers * WORKER_CPUS:g} CPUs, and the local cluster has {job.ray.num_cpus}",
            where="execution.workers",
            found=job.execution.workers,
            expected=f"at most {int(job.ray.num_cpus / WORKER_CPUS)} with ray.num_cpus={job.ray.num_cpus}",
            cure="take fewer workers (the adapter stays the same), or set ray.num_cpus to the cores of this machine",
        )


def _workers(job: Job, gpus: int) -> int:
    """The number of workers. With fewer GPUs than wanted, the most that divide the micro-batches."""
    wanted, micro_batches = job.execution.workers, job.training.micro_batches
    if not 0 < gpus < wanted:
        return wanted
    return max(n for n in range(1, gpus + 1) if micro_batches == "auto" or micro_batches % n == 0)


def train(job: Job, plan: Plan, validate: Validate, log: Log, mlflow_run_id: str | None = None) -> TrainingRecord:
    """Trains, or continues an interrupted training, and publishes ``outputs/adapters/<task>/<method>-<seed>/``.

    Methods without trainable parameters do not start Ray.

    Args:
        job: What to train.
        plan: What :func:`prepare` returned.
        validate: Measures the validation split. It must be picklable.
        log: Receives steps and metrics, in this process.
        mlflow_run_id: The MLflow run that training.json names.

    Returns:
        The content of training.json.

    Raises:
        TrainingError: ``execution.storage`` is not usable, workers were lost more than ``max_failures`` times, a worker
            was stuck, or the loop or a reader raised.
    """
    started = time.perf_counter()
    folder = job.work_folder(plan.key)
    if plan.trains:
        outcome, workers = _with_ray(job, plan, validate, log)
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        outcome, workers = run(job, plan, device, validate, log), 1
    local = Layout(job.root).training_work
    adapter = local / f"{job.name}-{plan.key[:12]}" / "published"
    for name in storage.list_files(storage.join(folder, "adapter")):
        storage.write_bytes(adapter / name, storage.read_bytes(storage.join(folder, "adapter", name)))
    record = _record(
        job, plan, outcome, workers, read_card(adapter).bytes, time.perf_counter() - started, mlflow_run_id
    )
    write_training(adapter, record)
    storage.write_bytes(adapter / CURVE, _curve_text(outcome.result.curve).encode())
    storage.publish_folder(adapter, job.adapter_folder)
    storage.delete_folder(folder)
    # Leftovers of other settings go too, but only under the root: elsewhere they may be somebody else's.
    for left_over in local.glob(f"{job.name}-{'[0-9a-f]' * 12}"):
        shutil.rmtree(left_over)
    return record


def _make_work_folder(job: Job, plan: Plan) -> None:
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


def _with_ray(job: Job, plan: Plan, validate: Validate, log: Log) -> tuple[Outcome, int]:
    """The outcome and the number of workers."""
    _make_work_folder(job, plan)
    for key, value in LEAN.items():
        os.environ.setdefault(key, value)
    # Messages come through the mailbox. Ray would print the workers' output a second time.
    with ray_session(job.ray, log_to_driver=False):
        import ray

        mailbox = _mailbox()
        with MailboxFollower(lambda: ray.get(mailbox.take.remote()), log):
            return _fit(job, plan, validate, mailbox)


def _mailbox() -> Any:
    """A mailbox on this machine, so that no lost machine takes it along."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()


def _fit(job: Job, plan: Plan, validate: Validate, mailbox: Any) -> tuple[Outcome, int]:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    settings = job.execution
    discarded = storage.join(job.work_folder(plan.key), "ray")
    files, path = storage.filesystem(discarded)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = _workers(job, gpus)
    if workers < settings.workers:
        logger.warning("%d GPUs for %d workers: training with %d", gpus, settings.workers, workers)
    logger.info("%s: starting %d worker(s)", job.name, workers)
    # Ray's controller opens the settings and the result. The classes in them would make it import the towers, so the
    # settings are a reference and the result is bytes.
    work = ray.put((job, plan, validate))
    trainer = TorchTrainer(
        on_worker(_worker),  # type: ignore[arg-type]  # Ray's annotation has no return value, but its Result has
        train_loop_config={"work": work, "mailbox": mailbox},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": WORKER_CPUS, **({"GPU": 1} if gpus else {})},
            # GPUs of one machine are closest to each other. Packed CPU workers would share one CPU, half for each.
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
        storage.delete_folder(discarded)
    outcome: Outcome = pickle.loads(result.return_value)  # nosec B301  # by this run's worker
    return outcome, workers


def _worker(settings: dict[str, Any]) -> bytes:
    """What Ray runs in each worker. Returns the pickled outcome."""
    import ray
    import ray.train.torch

    mailbox = settings["mailbox"]
    if fault := ray.get(mailbox.fault.remote()):
        # A fault of the data or the settings would only occur again.
        raise TrainingError(fault)
    job, plan, validate = ray.get(settings["work"])
    context = ray.train.get_context()
    # Not the number of cores: how threads split a matrix product decides its rounding.
    torch.set_num_threads(job.training.threads)
    log = None
    if context.get_world_rank() == 0:
        writer = MailboxWriter(mailbox.post.remote)
        log = writer.metrics
        package = logging.getLogger("components")
        package.setLevel(logging.INFO)
        package.addHandler(writer)

    def report(text: str) -> None:
        ray.get(mailbox.report.remote(text))

    try:
        device = ray.train.torch.get_device()
        if device.type == "cuda":
            check_gpu(f"the GPU that Ray gave to rank {context.get_world_rank()}")
        return pickle.dumps(run(job, plan, device, validate, log, report, ray.train.report))
    except ReelTuneError as error:
        report(str(error))
        raise
    finally:
        # Calls arrive in order, so an answer to this one means that all posts have arrived.
        ray.get(mailbox.fault.remote())


def _record(
    job: Job,
    plan: Plan,
    outcome: Outcome,
    workers: int,
    artifact_bytes: int,
    seconds: float,
    mlflow_run_id: str | None,
) -> TrainingRecord:
    result = outcome.result
    return TrainingRecord(
        task=job.task,
        method=job.method,
        seed=job.seed,
        epoch=result.epoch,
        steps=result.steps,
        seconds=result.seconds,
        samples_per_second=result.samples_per_second,
        data_wait_share=result.data_wait_share,
        parameters=outcome.parameters,
        workers=workers,
        epochs=job.training.epochs if result.steps else 0,
        batch_size=job.training.batch_size,
        total_seconds=round(seconds, 3),
        artifact_bytes=artifact_bytes,
        validation=result.curve[-1] if result.curve else {},
        provenance=plan.provenance,
        training_key=plan.key,
        mlflow_run_id=mlflow_run_id,
    )


def _curve_text(curve: list[dict[str, float]]) -> str:
    columns = ["epoch", "step", "loss"]
    columns += [name for row in curve[:1] for name in row if name not in columns]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(curve)
    return text.getvalue()
