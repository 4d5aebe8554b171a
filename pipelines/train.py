"""Trains one method on one task's frames and publishes the adapter."""

from __future__ import annotations

import argparse

import _here  # noqa: F401

from components import cli, provenance


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the stage's arguments."""
    parser.add_argument("--task", required=True, help="the task's key in params.yaml")
    parser.add_argument("--method", required=True, help="the method's key in params.yaml")
    parser.add_argument("--seed", type=int, default=0, help="fixes initial parameters, batches and every other draw")


def body(stage: cli.Stage) -> None:
    """Trains on a frame store, writes outputs/adapters/<task>/<method>-<seed>/ and logs a run in MLflow."""
    from components.evaluation.validation import Validation
    from components.tracking.runs import start_run
    from components.training.distributed import prepare, train
    from components.training.job import Job

    args, params = stage.args, stage.params
    job = Job.of(stage.root, params, args.task, args.method, args.seed)
    plan = prepare(job)
    with start_run(
        stage.root,
        params.tracking,
        task=job.task,
        method=job.method,
        seed=job.seed,
        params=job.settings(),
        provenance=provenance.collect(stage.root),
        tags={"training_key": plan.key, "store": plan.store},
        resume=plan.key,
    ) as run:
        evaluation, on_test = params.evaluation, params.training.select_on == "test"
        validate = Validation(evaluation.batch_size, on_test, evaluation.precision)
        record = train(job, plan, validate, run.log, run.run_id)
        names = ("seconds", "total_seconds", "samples_per_second", "data_wait_share", "artifact_bytes")
        run.log(record.steps, {f"training_{name}": getattr(record, name) for name in names})
    count = record.parameters
    print(f"{job.name}: {count.trainable:,} parameters ({count.share:.2%}) in {job.adapter_folder}")


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
