"""Embeds a task's videos with the champion of its registered model.

A collection without captions has no champion. There the backbone embeds without an adapter, or with the adapter that
--adapter names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from components import cli, provenance
from components.adapters.file import load_adapter, read_card, save_adapter
from components.backbones.clip import Backbone, load_backbone
from components.evaluation.encode import pick_device
from components.frames.store import FrameStore
from components.methods.build import build
from components.search import index as indexes
from components.search.gallery import make_gallery
from components.search.query import Searcher
from components.search.records import Source
from components.tracking.record import read_registry_record


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this stage."""
    parser.add_argument("--task", required=True, help="key of the task in params.yaml")
    parser.add_argument("--adapter", help="folder of an adapter, of this or another task, instead of the champion")


def plain_adapter(stage: cli.Stage, backbone: Backbone) -> Path:
    """Makes an adapter without parameters for the task."""
    task = stage.params.task(stage.args.task)
    folder = stage.layout.work / "plain" / stage.args.task
    method = build("zero_shot", {}, backbone, frames=task.frames, words=task.words)
    save_adapter(folder, method, task=stage.args.task, provenance=provenance.collect(stage.root))
    return folder


def choose(stage: cli.Stage, store: FrameStore, backbone: Backbone) -> tuple[Path, Source]:
    """The folder of the adapter, and what the index is made from."""
    split = stage.params.search.split
    if stage.args.adapter is None and not store.manifest.is_only_searched:
        best = read_registry_record(stage.layout.champion_record(stage.args.task)).champion
        source = Source(version=best.version, method=best.method, seed=best.seed, split=split, store=store.fingerprint)
        return stage.path(best.folder), source
    folder = stage.path(stage.args.adapter) if stage.args.adapter else plain_adapter(stage, backbone)
    label = read_card(folder).label
    return folder, Source(version=None, method=label, seed=None, split=split, store=store.fingerprint)


def body(stage: cli.Stage) -> None:
    """From an adapter and a frame store to outputs/indexes/<task>/."""
    task, params = stage.args.task, stage.params
    params.task(task)
    store = FrameStore(stage.layout.frames(task))
    backbone = load_backbone(params.backbone, stage.root)
    adapter, source = choose(stage, store, backbone)
    method = load_adapter(adapter, backbone).to(pick_device(params.evaluation.device))
    sha256, size = read_card(adapter).sha256, params.evaluation.batch_size
    index = indexes.build(method, store, split=source.split, adapter_sha256=sha256, batch_size=size)
    gallery = None
    if source.seed is not None:
        scorecards = stage.layout.scorecards(task, source.method, source.seed)
        gallery = make_gallery(Searcher(method, index), store, source, scorecards)
    card = indexes.write(index, stage.layout.index(task), adapter, source, gallery)
    version = "not registered" if card.version is None else f"version {card.version}"
    print(f"{task}: {card.videos} videos indexed with {card.method} ({version})")


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
