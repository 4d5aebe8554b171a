"""Embeds a task's videos with the champion of its registered model.

A collection without captions has no champion. There the plain backbone embeds, or the adapter that --adapter names.
"""

from __future__ import annotations

import argparse

import _here  # noqa: F401

from components import cli


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this stage."""
    parser.add_argument("--task", required=True, help="key of the task in params.yaml")
    parser.add_argument("--adapter", help="folder of the adapter to use instead, from this task or another one")


def body(stage: cli.Stage) -> None:
    """Adapter + frame store -> outputs/indexes/<task>/."""
    from components.adapters.file import load_adapter
    from components.benchmarks.reader import is_published
    from components.frames.store import FrameStore
    from components.processes import pick_device
    from components.search import index as indexes
    from components.search.backbones import adapter_backbone, task_backbone
    from components.search.calibrate import calibrate
    from components.search.cutoff import write_cutoff
    from components.search.gallery import make_gallery
    from components.search.notes import shapes_note
    from components.search.source import of_champion, read_source, write_plain
    from components.tracking.champion import current_champion

    task, params = stage.args.task, stage.params
    settings = params.task(task)
    store = FrameStore(stage.layout.frames(task))
    notes = [""]
    if stage.args.adapter:
        source = read_source(stage.path(stage.args.adapter))
    elif store.manifest.is_only_searched:
        plain = task_backbone(params, task, stage.root)
        source = write_plain(stage.layout, task, settings, plain, params.backbone_of(task))
    else:
        current = current_champion(stage.layout, params.tracking, task)
        source, notes = of_champion(stage.layout, current.champion), [current.note]
    backbone, elsewhere = adapter_backbone(source.folder, params, task, stage.root)
    method = load_adapter(source.folder, backbone).to(pick_device(params.evaluation.device))
    split = params.search.split_of(is_published(task, settings))
    size, precision = params.evaluation.batch_size, params.evaluation.precision
    index = indexes.build(
        method, store, split=split, adapter_sha256=source.sha256, batch_size=size, precision=precision
    )
    gallery = make_gallery(method, store, index, size, precision)
    made_from = {"version": source.version, "method": source.method, "seed": source.seed}
    made_from |= {"split": split, "store": store.fingerprint}
    cutoff = calibrate(method, store, index, source.sha256, size, precision)
    card = indexes.write(index, stage.layout.index(task), source.folder, made_from, gallery)
    write_cutoff(stage.layout.index(task), cutoff)
    version = "not registered" if card.version is None else f"version {card.version}"
    for note in filter(None, [*notes, elsewhere, shapes_note(card.backbone.model, task)]):
        print(f"note: {note}")
    print(f"{task}: {card.videos} videos indexed with {card.method} ({version})")
    if cutoff is not None:
        print(f"{task}: {cutoff.describe(params.search.false_alarms)}")


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
