"""Searches a method's settings on the validation split with Ray Tune. Every trial is a run in MLflow."""

from __future__ import annotations

import argparse
import json

import _here  # noqa: F401

from components import cli, provenance, storage


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the script's arguments."""
    parser.add_argument("--task", required=True, help="the task's key in params.yaml")
    parser.add_argument("--method", required=True, help="the method's key in params.yaml")
    parser.add_argument("--seed", type=int, default=0, help="fixes the trials drawn and each trial's training")
    parser.add_argument("--trials", type=int, default=9, help="number of trainings")
    parser.add_argument("--grace", type=int, default=1, help="epochs before a trial may be stopped")
    parser.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="key=space",
        help="low..high or a,b,c; a key without a dot is one of the method's (default: lr, within a factor of ten)",
    )


def body(stage: cli.Stage) -> None:
    """Searches, writes reports/tune/<task>-<method>-<seed>.json, logs runs in MLflow and prints a table."""
    from components.evaluation.validation import Validation
    from components.tracking.runs import start_run
    from components.tracking.trials import TrialRuns
    from components.training import tune
    from components.training.job import Job
    from components.training.search_space import default_space, parse_space
    from components.training.trial import table

    args, params, root = stage.args, stage.params, stage.root
    job = Job.of(root, params, args.task, args.method, args.seed)
    space = parse_space(args.search, args.method) or default_space(job)
    plan = tune.Search(job, tuple(args.overrides), space, args.trials, args.grace)
    versions, settings = provenance.collect(root), job.settings()
    with start_run(
        root,
        params.tracking,
        task=job.task,
        method=f"{job.method}-search",
        seed=job.seed,
        params=settings,
        provenance=versions,
        resume=plan.name,
    ) as run:
        identity = job.task, job.method, job.seed, settings, versions
        follow = TrialRuns(root, params.tracking, run.run_id, plan.name, *identity)
        trials = tune.search(
            plan, Validation(params.evaluation.batch_size, precision=params.evaluation.precision), follow
        )
        run.log(0, {f"val_{name}": value for name, value in trials[0].metrics.items()})
        run.tag({"best": trials[0].overrides})
    file = stage.layout.reports / "tune" / f"{job.name}.json"
    storage.write_bytes(file, (json.dumps([trial.record for trial in trials], indent=1) + "\n").encode())
    cli.show(table(trials, params.training.epochs))


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
