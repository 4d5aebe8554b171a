"""Trains and tests every method of params.yaml on every task without Ray. Prints the tables of docs/results.md.

    dvc repro ingest
    python bench/all_methods.py --jobs 2

Trainings are those of `pipelines/train.py` with one worker, with the same batches and initial parameters. Adapters are
saved and loaded again before they are tested. Each adapter adds a line of JSON to reports/all_methods.jsonl. An adapter
with a line for the same settings and code is not trained again, so a run that was stopped resumes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from components.adapters.file import load_adapter, read_card
from components.backbones.load import load_backbone
from components.evaluation.evaluate import evaluate
from components.params import Params, load_params
from components.records import make_record
from components.report import tables
from components.report.results import AdapterResult
from components.training.job import Job, run

# What a line of the file has besides the fields of a result.
UNSHOWN = ("intervals", "training_key")


def one(
    root: Path, params: Params, task: str, method: str, seed: int, done: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The record of one adapter. ``done`` holds the records of earlier runs by training key."""
    torch.set_num_threads(1)
    job = Job.of(root, params, task, method, seed)
    plan = job.plan()
    if plan.key in done:
        return done[plan.key]
    outcome = run(job, plan, torch.device("cpu"), None, None)
    work = Path(job.work_folder(plan.key))
    adapter = load_adapter(work / "adapter", load_backbone(params.backbone_of(task), root))
    card = read_card(work / "adapter")
    store = job.store()
    split = store.manifest.protocol.test_split
    scorecard = evaluate(adapter, store, split, card, seed, params.evaluation)
    record = {
        "task": task,
        "method": method,
        "seed": seed,
        "metrics": scorecard.card.metrics,
        "intervals": scorecard.card.intervals,
        "trainable_parameters": card.trainable,
        "backbone_share": card.share,
        "artifact_bytes": sum(file.stat().st_size for file in (work / "adapter").iterdir()),
        "training_seconds": outcome.result.seconds,
        "training_key": plan.key,
    }
    shutil.rmtree(work)
    return record


def main() -> None:
    """Runs all combinations, ``--jobs`` at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=".")
    parser.add_argument("--tasks", nargs="+", help="tasks to train on (default: those of run.tasks)")
    parser.add_argument("--methods", nargs="+", help="methods to train (default: all entries of methods)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="number of trainings at a time, with one thread each")
    args = parser.parse_args()
    root = Path(args.root).resolve()
    params = load_params(root / "params.yaml")
    tasks, methods = args.tasks or params.run.tasks, args.methods or list(params.methods)
    wanted = [(task, method, seed) for task in tasks for method in methods for seed in args.seeds]
    path = root / "reports" / "all_methods.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {record["training_key"]: record for record in map(json.loads, lines)}
    records: dict[tuple[str, str, int], dict[str, Any]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=spawn) as pool:
        running = {pool.submit(one, root, params, *key, done): key for key in wanted}
        for future in as_completed(running):
            key, record = running[future], future.result()
            records[key] = record
            if record["training_key"] not in done:
                with path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(record) + "\n")
            metrics = record["metrics"]["all"]
            recalls = f"t2v {metrics['t2v']['R@1']}, v2t {metrics['v2t']['R@1']}"
            print(f"{len(records)}/{len(wanted)} {key}: R@1 {recalls}", flush=True)
    fields = [{name: value for name, value in records[key].items() if name not in UNSHOWN} for key in wanted]
    print(tables.markdown_all([make_record(tree, AdapterResult, path) for tree in fields]), end="")


if __name__ == "__main__":
    main()
