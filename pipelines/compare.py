"""Compares two adapters on the same queries: differences with intervals and p-values, and the queries that changed."""

from __future__ import annotations

import argparse

import _here  # noqa: F401

from components import cli


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this script."""
    what = "folder of scorecards, or task/method-seed"
    parser.add_argument("a", metavar="A", help=what)
    parser.add_argument("b", metavar="B", help=what)
    parser.add_argument("--split", default="test", help="split of the queries, test or val")
    parser.add_argument("--queries", type=int, default=10, help="number of changed queries to show")


def body(stage: cli.Stage) -> None:
    """Prints the comparison."""
    from components.evaluation.compare import compare, describe, scorecard_folder

    args = stage.args
    a, b = (scorecard_folder(stage.root, name) for name in (args.a, args.b))
    cli.show(describe(compare(a, b, args.split, stage.params.evaluation.bootstrap, args.queries)))


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments, positional_overrides=False)
