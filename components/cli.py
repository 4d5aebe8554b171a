"""What all entry scripts share: arguments, the root folder, and errors in one line."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from components.errors import DISK_FAULTS, ConfigError, DataError, ReelTuneError, without_secrets
from components.layout import Layout
from components.names import NAMES
from components.params import Params, load_params


@dataclass(frozen=True)
class Stage:
    """A script's inputs.

    Attributes:
        params: The checked settings.
        root: The folder that all paths start from.
        args: The parsed arguments.
    """

    params: Params
    root: Path
    args: argparse.Namespace

    @property
    def layout(self) -> Layout:
        """The paths of the project's files."""
        return Layout(self.root)

    def path(self, *parts: str) -> Path:
        """An absolute path under the root. Jobs run in temporary copies, where a relative path would be lost."""
        return self.root.joinpath(*parts)


def main(
    body: Callable[[Stage], None],
    description: str,
    arguments: Callable[[argparse.ArgumentParser], None] | None = None,
    *,
    positional_overrides: bool = True,
    command: bool = False,
) -> None:
    """Parses ``--root``, the script's arguments and ``key=value`` overrides, then runs ``body``.

    On :class:`ReelTuneError`, a faulty disk or missing rights it prints one message and exits with 1. After Ctrl-C it
    exits with 130. Any other exception keeps its traceback.

    Args:
        body: What the script does.
        description: The help text.
        arguments: Adds the script's arguments to the parser.
        positional_overrides: False for a script with positional arguments: it takes ``--set key=value`` instead.
        command: True for a script whose last argument is a command, which may have options.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", default=".", help="the folder of params.yaml, which all outputs are written under")
    if arguments is not None:
        arguments(parser)
    text = "settings that replace those of params.yaml"
    if positional_overrides:
        parser.add_argument("overrides", nargs="*", metavar="key=value", help=text)
    else:
        parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="key=value", help=text)
    # Otherwise argparse would refuse an option between overrides.
    args = parser.parse_args() if command else parser.parse_intermixed_args()
    _hide_secrets()
    try:
        root = Path(args.root).resolve()
        params = load_params(Layout(root).params, args.overrides, NAMES)
        _check_names(params, args)
        body(Stage(params, root, args))
    except ReelTuneError as error:
        _fail(error)
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        cure = "mend that, and run the same command again"
        _fail(DataError(DISK_FAULTS[error.errno], where=error.filename or args.root, cure=cure))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _fail(error: ReelTuneError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


def _check_names(params: Params, args: argparse.Namespace) -> None:
    """Checks the names of task and method before the script imports what takes seconds."""
    if getattr(args, "task", None) is not None:
        params.task(args.task)
        _check_reach(params, args.task, args.overrides)
    if getattr(args, "method", None) is not None:
        params.method(args.method)


def _check_reach(params: Params, task: str, overrides: Sequence[str]) -> None:
    """Refuses a setting of the project's backbone for a task that has another one, where it would do nothing."""
    for item in overrides:
        if item.partition("=")[0].split(".")[0] == "backbone" and (key := params.backbone_key(task)) != "backbone":
            raise ConfigError(
                "this task has a backbone of its own, so the project's is not used",
                where="command line",
                found=item,
                cure=f"set {item.replace('backbone', key, 1)}",
            )


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The line of a message, or the lines of a traceback, without credentials."""
        return without_secrets(super().format(record))


def _hide_secrets() -> None:
    """Logs and tracebacks go through the function that error messages go through."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = hook


def show(answer: str) -> None:
    """Prints a script's answer. A reader that closes the pipe early, as ``head`` does, causes no error.

    Call it last. A broken pipe anywhere else is a fault, since it may be a worker's.
    """
    try:
        print(answer, flush=True)
    except BrokenPipeError:
        # Python would raise again when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
