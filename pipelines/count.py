"""Counts parameters and bytes of every method, with --macs multiply-adds too. It downloads nothing."""

from __future__ import annotations

import argparse
import logging

import _here  # noqa: F401

from components import cli

logger = logging.getLogger(__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this script."""
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "ViT-B-16", "ViT-L-14"], help="open_clip models")
    parser.add_argument("--frames", type=int, default=12, help="T, frames of the video")
    parser.add_argument("--words", type=int, default=32, help="L, tokens of the text")
    parser.add_argument("--macs", action="store_true", help="multiply-adds too, which takes seconds per method")
    parser.add_argument("--params", action="store_true", help="the entries of params.yaml, not the published sizes")


def body(stage: cli.Stage) -> None:
    """Prints a table per backbone."""
    from components.report.count import count, meta_backbone, published, table

    args = stage.args
    tables = []
    for model in args.models:
        backbone = meta_backbone(model)
        entries = stage.params.methods if args.params else published(model)
        counts = []
        for number, (label, raw) in enumerate(entries.items(), 1):
            if args.macs:
                logger.info("%s: %d of %d, %s", model, number, len(entries), label)
            counts.append(count(label, raw, backbone, frames=args.frames, words=args.words, macs=args.macs))
        total = f"{counts[0].total:,} parameters, {counts[0].paper_total:,} as VoP's tables count them"
        tables.append(f"{model}: {total}; {args.frames} frames, {args.words} words\n{table(counts, args.macs)}")
    cli.show("\n\n".join(tables))


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
