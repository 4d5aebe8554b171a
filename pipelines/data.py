"""Compares what the folder of a task should contain with what it contains: annotations, videos and published counts.

Example: python pipelines/data.py check --task msvd

Exits with 1 if nothing can be ingested. With --strict, it also does so if anything is missing or differs.
"""

from __future__ import annotations

import argparse
import sys

import _here  # noqa: F401

from components import cli
from components.benchmarks.check import check


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the script."""
    parser.add_argument("action", choices=["check"], help="what to do")
    parser.add_argument("--task", required=True, help="key of the task in params.yaml")
    parser.add_argument("--strict", action="store_true", help="also fail if a video is missing or a count differs")


def body(stage: cli.Stage) -> None:
    """Annotations and a list of the videos -> a table on the terminal."""
    name = stage.args.task
    found = check(name, stage.params.task(name), stage.root)
    cli.show(found.text())
    if not (found.complete if stage.args.strict else found.usable):
        sys.exit(1)


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments, positional_overrides=False)
