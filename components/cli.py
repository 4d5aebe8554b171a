"""What every entry script shares: arguments, the root folder, and errors in one line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.errors import ReelTuneError
from components.layout import Layout
from components.names import NAMES
from components.params import Params, load_params


@dataclass(frozen=True)
class Stage:
    """What a script gets: the checked settings, the root that all paths start from, and its own arguments."""

    params: Params
    root: Path
    args: argparse.Namespace

    @property
    def layout(self) -> Layout:
        """Where the project keeps its files."""
        return Layout(self.root)

    def path(self, *parts: str) -> Path:
        """An absolute path under the root: jobs run in temporary copies, so relative paths would be lost."""
        return self.root.joinpath(*parts)


def main(
    body: Callable[[Stage], None],
    description: str,
    arguments: Callable[[argparse.ArgumentParser], None] | None = None,
    *,
    positional_overrides: bool = True,
) -> None:
    """Parses ``--root``, the script's own arguments and ``key=value`` overrides, then runs ``body``.

    A script with positional arguments of its own sets ``positional_overrides`` to False and takes
    ``--set key=value`` instead.

    Exits with 1 and one message on :class:`ReelTuneError`; any other exception keeps its traceback.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", default=".", help="folder of params.yaml; all outputs are written under it")
    if arguments is not None:
        arguments(parser)
    text = "settings that replace those of params.yaml"
    if positional_overrides:
        parser.add_argument("overrides", nargs="*", metavar="key=value", help=text)
    else:
        parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="key=value", help=text)
    # Intermixed, or an option between overrides would be refused.
    args = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        root = Path(args.root).resolve()
        body(Stage(load_params(root / "params.yaml", args.overrides, NAMES), root, args))
    except ReelTuneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def show(answer: str) -> None:
    """Prints what a script was asked for; a reader that has enough, as `head` has, is no error.

    For the last thing a script does. Elsewhere a broken pipe is a fault: it may be a worker's.
    """
    try:
        print(answer, flush=True)
    except BrokenPipeError:
        # Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
