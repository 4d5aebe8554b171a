"""Ranks a task's videos for a text.

Example: python pipelines/search.py --task shapes-clips "a red circle moves from left to right"
"""

from __future__ import annotations

import argparse

import _here  # noqa: F401

from components import cli


def arguments(parser: argparse.ArgumentParser) -> None:
    """The script's arguments."""
    parser.add_argument("--task", required=True, help="key of the task in params.yaml")
    parser.add_argument("--top", type=int, help="ranked videos to print (default: search.top)")
    parser.add_argument("text", nargs="+", help="what to look for")


def body(stage: cli.Stage) -> None:
    """Text + index -> a table on the terminal."""
    from components.search.query import Searcher, format_hits

    params, text = stage.params, " ".join(stage.args.text)
    searcher = Searcher.of(stage.root, params, stage.args.task)
    hits = searcher.search(text, stage.args.top)
    kept, total = searcher.kept_words(text)
    if kept < total:
        print(f"note: only the first {kept} of {total} words fit, and the rest is ignored")
    cli.show(format_hits(hits))


if __name__ == "__main__":
    cli.main(body, __doc__, arguments, positional_overrides=False)
