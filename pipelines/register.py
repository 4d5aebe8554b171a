"""Registers a task's adapters in MLflow and lets the alias move by the rule."""

from __future__ import annotations

import argparse
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

from components import cli, provenance, storage
from components.errors import ConfigError
from components.tracking.evaluated import read_candidate
from components.tracking.mlflow import connect
from components.tracking.registry import Registry, record


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own arguments."""
    parser.add_argument("--task", required=True, help="key of the task in params.yaml")
    parser.add_argument("--retire", metavar="REASON", help="first take the alias from its holder, by hand")


def body(stage: cli.Stage) -> None:
    """Adapters + scorecards -> versions, alias, outputs/registry/<task>.json and the champion's adapter beside it."""
    task, params, settings = stage.args.task, stage.params, stage.params.tracking
    params.task(task)
    pairs = [(name, seed) for name in settings.methods if name in params.run.methods for seed in params.run.seeds]
    if not pairs:
        raise ConfigError("nothing to register", where="tracking.methods", expected="one of run.methods")
    candidates = [read_candidate(stage.root, task, method, seed) for method, seed in pairs]
    registry = Registry(connect(stage.root, settings), stage.root, settings, task)
    config = {
        "root": str(stage.root),
        "task": task,
        "backbone": asdict(params.backbone),
        "split": params.search.split,
        "top": params.search.top,
        "batch_size": params.evaluation.batch_size,
    }
    # Named, not imported: MLflow runs a copy of it.
    code = Path(str(importlib.util.find_spec("components.search.pyfunc").origin))  # type: ignore[union-attr]
    origin = provenance.collect(stage.root)
    versions = [registry.register(candidate, code=code, config=config, provenance=origin) for candidate in candidates]
    if stage.args.retire:
        registry.retire(stage.args.retire)
    decisions = registry.promote(versions)
    champion = registry.export_champion(stage.layout.champion(task))
    champion["folder"] = f"outputs/registry/{task}"
    content = {"task": task, "champion": champion, **record(settings.alias, versions, decisions)}
    storage.write_bytes(stage.layout.champion_record(task), json.dumps(content, indent=2).encode() + b"\n")
    for line in decisions:
        state = "champion" if line["version"] == champion["version"] else "kept back"
        print(f"{task} version {line['version']} ({line['method']}-{line['seed']}): {state}; {line['reason']}")


if __name__ == "__main__":
    cli.main(body, __doc__, arguments)
