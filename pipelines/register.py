"""Registers a task's adapters in MLflow. The champion's alias moves by the rule."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import replace
from pathlib import Path

import _here  # noqa: F401

from components import cli, provenance
from components.errors import ConfigError


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's arguments."""
    parser.add_argument("--task", required=True, help="key of the task in params.yaml")
    parser.add_argument("--retire", metavar="REASON", help="first take the alias from the champion, by hand")


def body(stage: cli.Stage) -> None:
    """Adapters + scorecards -> versions, alias, outputs/registry/<task>.json and outputs/registry/<task>/."""
    from components.benchmarks.reader import is_published
    from components.methods.entries import check_searchable
    from components.tracking.evaluated import read_evaluated
    from components.tracking.model import ModelConfig
    from components.tracking.record import write_registry_record
    from components.tracking.registry import ModelRegistry
    from components.tracking.store import connect, model_lock

    task, params, settings = stage.args.task, stage.params, stage.params.tracking
    pairs = [(name, seed) for name in settings.methods if name in params.run.methods for seed in params.run.seeds]
    if not pairs:
        raise ConfigError("nothing to register", where="tracking.methods", expected="one of run.methods")
    adapters = [read_evaluated(stage.root, task, method, seed) for method, seed in pairs]
    for adapter in adapters:
        check_searchable(adapter.card.method, f"tracking.methods, {adapter.method}")
    client = connect(stage.root, settings)
    registry = ModelRegistry(client, stage.root, settings, task)
    config = ModelConfig(
        root=str(stage.root),
        task=task,
        backbone=params.backbone_of(task),
        split=params.search.split_of(is_published(task, params.task(task))),
        top=params.search.top,
        batch_size=params.evaluation.batch_size,
    )
    # An adapter of an earlier backbone of the task needs that one.
    configs = [replace(config, backbone=adapter.card.extra.backbone or config.backbone) for adapter in adapters]
    # Found without an import: MLflow runs a copy of the file.
    spec = importlib.util.find_spec("components.search.pyfunc")
    assert spec is not None
    code, came_from = Path(str(spec.origin)), provenance.collect(stage.root)
    # Look-up, creation and alias are steps of one decision.
    with model_lock(client, stage.root, task):
        versions = [
            registry.register(adapter, code=code, config=own, provenance=came_from)
            for adapter, own in zip(adapters, configs, strict=True)
        ]
        if stage.args.retire:
            registry.retire(stage.args.retire)
        outcomes = registry.promote(versions)
        champion = registry.export_champion(stage.layout.champion(task))
        registry.renew_code(champion.version, code)  # it may come from an earlier training
        write_registry_record(stage.layout.champion_record(task), registry.record(champion, versions, outcomes))
    for outcome in outcomes:
        state = "champion" if outcome.version == champion.version else "kept back"
        print(f"{task} version {outcome.version} ({outcome.method}-{outcome.seed}): {state}; {outcome.reason}")


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
