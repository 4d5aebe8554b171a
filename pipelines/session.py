"""Runs a command, such as `dvc repro`, whose stages share one Ray session: `python pipelines/session.py dvc repro`."""

from __future__ import annotations

import argparse
import sys

import _here  # noqa: F401

from components import cli
from components.errors import ConfigError
from components.shared_ray import run_in_session


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the script's arguments."""
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run")


def body(stage: cli.Stage) -> None:
    """Exits with the command's status."""
    command = stage.args.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise ConfigError("missing", where="command line", expected="a command", cure="try `dvc repro`")
    sys.exit(run_in_session(command, stage.params.ray))


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments, positional_overrides=False, command=True)
