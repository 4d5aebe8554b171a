"""Runs scripts of ``pipelines/`` and ``bench/`` in this process, where torch, Ray and MLflow are imported already.

A separate process imports them again, which takes ten seconds of a core. Tests of signals, kills and the environment
start one all the same.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import torch

PIPELINES = Path(__file__).resolve().parents[1] / "pipelines"


def run_script(name: str, root: Path, *arguments: str) -> CompletedProcess[str]:
    """Runs a script as ``python pipelines/NAME --root ROOT ARGUMENTS`` does in the folder ROOT."""
    return run_file(PIPELINES / name, root, "--root", str(root), *arguments)


def run_file(script: Path, folder: Path, *arguments: str) -> CompletedProcess[str]:
    """Runs a script in a folder.

    Args:
        script: The file.
        folder: The current folder.
        arguments: What follows on the command line.

    Returns:
        The exit status, which is 1 after a traceback, and what the script printed and logged.
    """
    command = [str(script), *arguments]
    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with _process(command, folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        except Exception:
            traceback.print_exc()
            status = 1
    return CompletedProcess(command, status if isinstance(status, int) else 1, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _process(command: list[str], folder: Path) -> Iterator[None]:
    """What a process has, and what a script changes in it, for the length of a ``with`` block."""
    kept = sys.argv, sys.path[:], sys.excepthook, signal.getsignal(signal.SIGTERM), dict(os.environ)
    log = logging.getLogger()
    handlers, level = log.handlers, log.level
    sys.argv, log.handlers = command, []
    sys.path.insert(0, str(Path(command[0]).parent))
    threads = torch.get_num_threads()
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        torch.set_num_threads(threads)
        sys.argv, sys.path[:], sys.excepthook = kept[0], kept[1], kept[2]
        signal.signal(signal.SIGTERM, kept[3])
        os.environ.clear()
        os.environ.update(kept[4])
        log.handlers = handlers
        log.setLevel(level)
