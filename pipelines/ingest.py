"""Decodes the videos of one task into a frame store: data/<task> -> outputs/frames/<task>."""

from __future__ import annotations

import argparse

import _here  # noqa: F401

from components import cli
from components.ingest.progress import status
from components.ingest.run import ingest


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this script."""
    parser.add_argument("--task", required=True, help="key of `tasks` in params.yaml")
    parser.add_argument("--status", action="store_true", help="only show how far the last run came, or how it ended")
    parser.add_argument("--overwrite", action="store_true", help="decode everything, whatever earlier runs decoded")


def body(stage: cli.Stage) -> None:
    """Ingests the task, or shows the status of its last ingest."""
    params, task = stage.params, stage.args.task
    settings = params.task(task)
    if stage.args.status:
        cli.show(status(stage.layout.ingest_work(task)))
        return
    summary = ingest(stage.root, task, settings, params.frames, params.ray, overwrite=stage.args.overwrite)
    print(summary.text())


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
