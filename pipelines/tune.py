"""Searches a method's settings on the validation split with Ray Tune; every trial is a run in MLflow."""

from __future__ import annotations

import argparse
import json

from components import cli, provenance, storage
from components.evaluation.validation import Validation
from components.tracking.runs import start_run
from components.tracking.trials import TrialRuns
from components.training import tune
from components.training.job import Job


def arguments(parser: argparse.ArgumentParser) -> None:
    """The script's own arguments."""
    parser.add_argument("--task", required=True, help="key of the task in params.yaml")
    parser.add_argument("--method", required=True, help="key of the method in params.yaml")
    parser.add_argument("--seed", type=int, default=0, help="fixes the trials drawn and each trial's training")
    parser.add_argument("--trials", type=int, default=9, help="number of trainings")
    parser.add_argument("--grace", type=int, default=1, help="epochs before a trial may be stopped")
    parser.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="key=space",
        help="low..high or a,b,c; a key without a dot is the method's (default: lr, a factor of ten around its value)",
    )


def body(stage: cli.Stage) -> None:
    """Frame store -> a table of trials, reports/tune/<task>-<method>-<seed>.json, runs in MLflow."""
    args, params, root = stage.args, stage.params, stage.root
    job = Job.of(root, params, args.task, args.method, args.seed)
    space = tune.parse_space(args.search, args.method) or tune.default_space(job)
    plan = tune.Search(job, tuple(args.overrides), space, args.trials, args.grace)
    came_from, settings = provenance.collect(root), job.settings()
    with start_run(
        root,
        params.tracking,
        task=job.task,
        method=f"{job.method}-search",
        seed=job.seed,
        params=settings,
        provenance=came_from,
        resume=plan.name,
    ) as run:
        identity = job.task, job.method, job.seed, settings, came_from
        follow = TrialRuns(root, params.tracking, run.run_id, plan.name, *identity)
        trials = tune.search(plan, Validation(params.evaluation.batch_size), follow)
        run.log(0, {f"val_{name}": value for name, value in trials[0].figures.items()})
        run.tag({"best": trials[0].overrides})
    file = stage.path("reports", "tune", f"{job.name}.json")
    storage.write_bytes(file, (json.dumps([vars(trial) for trial in trials], indent=1) + "\n").encode())
    cli.show(tune.table(trials, params.training.epochs))


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
