"""Embeds a task's videos with the champion of its registered model.

A collection without captions has no champion: there the plain backbone embeds, or the adapter that --adapter names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from components import cli, provenance
from components.adapters.file import load_adapter, read_card, save_adapter
from components.backbones.clip import Backbone, load_backbone
from components.evaluation.evaluate import pick_device
from components.frames.store import FrameStore
from components.methods.build import build
from components.search import index as indexes
from components.tracking.record import read_registry_record


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own arguments."""
    parser.add_argument("--task", required=True, help="key of the task in params.yaml")
    parser.add_argument("--adapter", help="folder of an adapter, of this or of another task, to use in place of it")


def plain_adapter(stage: cli.Stage, backbone: Backbone) -> Path:
    """The adapter without parameters, made for the task."""
    task = stage.params.task(stage.args.task)
    folder = stage.layout.work / "plain" / stage.args.task
    method = build("zero_shot", {}, backbone, frames=task.frames, words=task.words)
    save_adapter(folder, method, task=stage.args.task, provenance=provenance.collect(stage.root))
    return folder


def choose(stage: cli.Stage, store: FrameStore, backbone: Backbone) -> tuple[Path, dict[str, object]]:
    """Folder of the adapter, and what the index says of it."""
    if stage.args.adapter is None and not store.manifest.is_only_searched:
        champion = read_registry_record(stage.layout.champion_record(stage.args.task)).champion
        fields = ("version", "method", "seed", "sha256")
        return stage.path(champion.folder), {name: getattr(champion, name) for name in fields}
    folder = stage.path(stage.args.adapter) if stage.args.adapter else plain_adapter(stage, backbone)
    card = read_card(folder)
    return folder, {"version": None, "method": card.label, "seed": None, "sha256": card.sha256}


def body(stage: cli.Stage) -> None:
    """Adapter + frame store -> outputs/indexes/<task>/."""
    task, params = stage.args.task, stage.params
    params.task(task)
    store = FrameStore(stage.layout.frames(task))
    backbone = load_backbone(params.backbone, stage.root)
    adapter, chosen = choose(stage, store, backbone)
    method = load_adapter(adapter, backbone).to(pick_device(params.evaluation.device))
    sha256, split = str(chosen.pop("sha256")), params.search.split
    size = params.evaluation.batch_size
    index = indexes.build(method, store, split=split, adapter_sha256=sha256, batch_size=size)
    made_from = {**chosen, "split": split, "store": store.fingerprint}
    card = indexes.write(index, stage.layout.index(task), adapter, made_from)
    version = "not registered" if card["version"] is None else f"version {card['version']}"
    print(f"{task}: {card['videos']} videos indexed with {card['method']} ({version})")


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
