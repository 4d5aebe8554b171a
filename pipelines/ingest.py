"""Decodes the videos of one task into a frame store: data/<task> -> outputs/frames/<task>."""

from __future__ import annotations

import argparse

from components import cli
from components.ingest.progress import status
from components.ingest.run import ingest
from components.ingest.state import task_folder


def arguments(parser: argparse.ArgumentParser) -> None:
    """The script's own arguments."""
    parser.add_argument("--task", required=True, help="key of `tasks` in params.yaml")
    parser.add_argument("--status", action="store_true", help="only say how far the last run is, or how it ended")
    parser.add_argument("--overwrite", action="store_true", help="decode everything, whatever earlier runs decoded")


def body(stage: cli.Stage) -> None:
    """The stage."""
    if stage.args.status:
        stage.params.task(stage.args.task)
        cli.show(status(task_folder(stage.root, stage.args.task)))
        return
    params, task = stage.params, stage.args.task
    summary = ingest(stage.root, task, params.task(task), params.frames, params.ray, overwrite=stage.args.overwrite)
    print(summary.text())


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
