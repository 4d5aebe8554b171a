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
    from components.benchmarks.reader import is_published
    from components.frames.store import FrameStore
    from components.search.backbones import adapter_backbone
    from components.search.calibrate import calibrate
    from components.search.chosen import choose_source
    from components.search.cutoff import write_cutoff
    from components.search.gallery import make_gallery
    from components.search.index import publish
    from components.search.notes import shapes_note
    from components.search.stage import AdapterOpener, encoding_of, finish, grow_index, locked
    from components.search.texts import TextVectors

    task, params = stage.args.task, stage.params
    settings = params.task(task)
    store = FrameStore(stage.layout.frames(task))
    adapter = stage.path(stage.args.adapter) if stage.args.adapter else None
    source, note = choose_source(stage.layout, params, task, adapter, store)
    _, elsewhere = adapter_backbone(source.folder, params, task, stage.root)
    split = params.search.split_of(is_published(task, settings))
    opener = AdapterOpener(stage.root, task, params, source.folder, encoding_of(params))
    made_from = {"version": source.version, "method": source.method, "seed": source.seed, "store": store.fingerprint}
    with locked(stage.layout, task):
        method, index = grow_index(opener, store, source.sha256, split)
        texts = TextVectors(method, opener.encoding.batch_size, opener.encoding.precision)
        gallery = make_gallery(texts, store, index)
        cutoff = calibrate(texts, store, index, source.sha256)
        card = publish(index, stage.layout.index(task), source.folder, made_from, gallery)
        write_cutoff(stage.layout.index(task), cutoff)
        finish(stage.layout, task)
    version = "not registered" if card.version is None else f"version {card.version}"
    for line in filter(None, [note, elsewhere, shapes_note(card.backbone.model, task)]):
        print(f"note: {line}")
    print(f"{task}: {card.videos} videos indexed with {card.method} ({version})")
    if cutoff is not None:
        print(f"{task}: {cutoff.describe(params.search.false_alarms)}")


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
