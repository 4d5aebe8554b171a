"""Embeds a task's videos with the champion of its registered model."""

from __future__ import annotations

import argparse

from components import cli
from components.adapters.file import load_adapter
from components.backbones.clip import load_backbone
from components.evaluation.evaluate import pick_device
from components.frames.store import FrameStore
from components.search import index as indexes
from components.tracking.candidate import read_json


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own arguments."""
    parser.add_argument("--task", required=True, help="key of the task in params.yaml")


def body(stage: cli.Stage) -> None:
    """Champion + frame store -> outputs/indexes/<task>/."""
    task, params = stage.args.task, stage.params
    params.task(task)
    champion = read_json(stage.path("outputs", "registry", f"{task}.json"))["champion"]
    adapter = stage.path(champion["folder"])
    store = FrameStore(stage.path("outputs", "frames", task))
    method = load_adapter(adapter, load_backbone(params.backbone, stage.root))
    method = method.to(pick_device(params.evaluation.device))
    index = indexes.build(
        method,
        store,
        split=params.search.split,
        adapter_sha256=champion["sha256"],
        batch_size=params.evaluation.batch_size,
    )
    made_from = {
        "version": champion["version"],
        "method": champion["method"],
        "seed": champion["seed"],
        "split": params.search.split,
        "store": store.fingerprint,
    }
    card = indexes.write(index, stage.path("outputs", "indexes", task), adapter, made_from)
    print(f"{task}: {card['videos']} videos indexed with {card['method']} (version {card['version']})")


if __name__ == "__main__":
    cli.main(body, __doc__, arguments)
