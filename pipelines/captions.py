"""Captions of one task's training frames, made or read: outputs/frames/<task> -> outputs/captions/<task>."""

from __future__ import annotations

import argparse

import _here  # noqa: F401

from components import cli
from components.captions.file import uses_captions
from components.captions.run import caption


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the argument of this script."""
    parser.add_argument("--task", required=True, help="key of `tasks` in params.yaml")


def body(stage: cli.Stage) -> None:
    """Captions the task's frames if its settings say how, and notes for each method whether it uses them."""
    params, task = stage.params, stage.args.task
    methods = {label: uses_captions(raw) for label, raw in params.methods.items()}
    print(caption(stage.root, task, params.task(task), methods, params.ray))


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
