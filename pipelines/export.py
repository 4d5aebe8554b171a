"""Writes the vectors of a task's videos, frames and texts as Parquet and .npy files.

The champion of the task's registered model embeds, or the adapter that --adapter names. A collection without captions
has no champion, and there the plain backbone embeds.
"""

from __future__ import annotations

import argparse

import _here  # noqa: F401

from components import cli


def arguments(parser: argparse.ArgumentParser) -> None:
    """The script's arguments."""
    parser.add_argument("--task", required=True, help="key of the task in params.yaml")
    parser.add_argument("--to", required=True, help="folder to write, which may hold an earlier export")
    parser.add_argument("--adapter", help="folder of the adapter to use instead, from this task or another one")
    parser.add_argument("--onnx", action="store_true", help="also write both encoders as ONNX")
    parser.add_argument("--split", choices=("train", "val", "test", "all"), default="all", help="videos to write")


def body(stage: cli.Stage) -> None:
    """Adapter + frame store -> a folder of vectors."""
    from components.adapters.file import load_adapter
    from components.frames.store import FrameStore
    from components.processes import pick_device
    from components.search.backbones import adapter_backbone
    from components.search.chosen import choose_source
    from components.search.export import check_target, export

    args, params, settings = stage.args, stage.params, stage.params.evaluation
    folder = stage.path(args.to)
    check_target(folder)
    store = FrameStore(stage.layout.frames(args.task))
    adapter = stage.path(args.adapter) if args.adapter else None
    source, note = choose_source(stage.layout, params, args.task, adapter, store)
    backbone, elsewhere = adapter_backbone(source.folder, params, args.task, stage.root)
    method = load_adapter(source.folder, backbone).to(pick_device(settings.device))
    card = export(
        method,
        store,
        source,
        folder,
        split=args.split,
        batch_size=settings.batch_size,
        precision=settings.precision,
        encoders=args.onnx,
    )
    for line in filter(None, [note, elsewhere]):
        print(f"note: {line}")
    for name, encoder in card.encoders.items():
        kept = encoder.difference is not None
        text = f"{encoder.file}, within {encoder.difference:.1e} of PyTorch" if kept else f"no file: {encoder.reason}"
        print(f"{name} encoder: {text} ({encoder.input})")
    counts = f"{card.videos:,} videos, {card.frames:,} frames and {card.texts:,} texts"
    print(f"{args.task}: {counts} with {card.method}, {card.dimension} numbers each, in {folder}")


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
