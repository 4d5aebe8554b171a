"""Decodes the videos of one task into a frame store: data/<task> -> outputs/frames/<task>."""

from __future__ import annotations

import argparse

from components import cli
from components.frames.ingest import ingest


def arguments(parser: argparse.ArgumentParser) -> None:
    """The script's own arguments."""
    parser.add_argument("--task", required=True, help="key of `tasks` in params.yaml")


def body(stage: cli.Stage) -> None:
    """The stage."""
    print(ingest(stage.root, stage.args.task, stage.params).text())


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
