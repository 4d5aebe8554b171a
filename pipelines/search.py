"""Ranks a task's videos for a question.

Example: python pipelines/search.py --task shapes-clips "a red circle moves from left to right"
"""

from __future__ import annotations

import argparse
import sys
from itertools import chain

import _here  # noqa: F401

from components import cli

PARTS = (
    ("plus", "TEXT", "also this; 2*TEXT weighs it twice"),
    ("minus", "TEXT", "but not this; 0.5*TEXT weighs it half"),
    ("picture", "FILE", "like this picture"),
    ("video", "FILE", "like this video file"),
    ("like", "ID", "like this video of the collection"),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The script's arguments."""
    parser.add_argument("--task", required=True, help="key of the task in params.yaml")
    parser.add_argument("text", nargs="*", help="what to look for")
    for name, value, text in PARTS:
        parser.add_argument(f"--{name}", action="append", default=[], metavar=value, help=text)
    parser.add_argument("--queries", metavar="FILE", help="a text file with one sentence per line, each a question")
    parser.add_argument(
        "--where", metavar="CONDITION", help="only videos with, for example, 'length < 60 and year > 2020'"
    )
    parser.add_argument("--top", type=int, help="ranked videos to print (default: search.top)")
    parser.add_argument("--all", action="store_true", help="also print answers below the cut-off")
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table", help="default: table")
    parser.add_argument("--save-clips", metavar="DIR", help="write each answer's span there as a video file")


def body(stage: cli.Stage) -> None:
    """Question + index -> ranked videos on the terminal, and clips."""
    from components.search.asked import asked_on, clip_folder, shown, word_notes
    from components.search.hits import written
    from components.search.query import Searcher

    args = stage.args
    questions = asked_on(args)
    folder = clip_folder(args.save_clips)
    searcher = Searcher.of(stage.root, stage.params, args.task)
    found = searcher.answer(questions, args.top, where=args.where)
    notes = word_notes(searcher, questions)
    answers = [shown(one, few, args.all, stage.root, folder) for one, few in zip(found, notes, strict=True)]
    if args.format == "csv":
        for line in chain.from_iterable(answer.notes for answer in answers):
            print(line, file=sys.stderr)
    cli.show(written(answers, args.format))


if __name__ == "__main__":
    cli.main(body, __doc__, arguments, positional_overrides=False)
