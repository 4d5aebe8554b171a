"""Fetches a model's weights, config and tokenizer into a folder, for a machine without a network.

Examples:
    python pipelines/weights.py ViT-B-16 openai --to weights/
    python pipelines/weights.py ViT-B-32 laion/CLIP-ViT-B-32-laion2B-s34B-b79K --to weights/
    python pipelines/weights.py tokenizer timm/ViT-B-16-SigLIP2 --to weights/
"""

from __future__ import annotations

import argparse

import _here  # noqa: F401

from components import cli


def arguments(parser: argparse.ArgumentParser) -> None:
    """The script's arguments."""
    parser.add_argument("model", metavar="MODEL", help="backbone.model, or `tokenizer` for a tokenizer alone")
    parser.add_argument("source", metavar="TAG", help="a pretrained tag of the model, or a repository (owner/name)")
    parser.add_argument("--to", default="weights", help="the folder that gets a subfolder (default: weights)")


def body(stage: cli.Stage) -> None:
    """A tag or a repository -> a folder for ``backbone.pretrained``."""
    from components.backbones.fetch import fetch_model, fetch_tokenizer

    args = stage.args
    if args.model == "tokenizer":
        folder = fetch_tokenizer(args.source, stage.path(args.to))
        cli.show(f"backbone.tokenizer: {folder}")
        return
    folder = fetch_model(args.model, args.source, stage.root, stage.path(args.to))
    cli.show(f"backbone: {{model: {args.model}, pretrained: {folder}}}")


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments, positional_overrides=False)
