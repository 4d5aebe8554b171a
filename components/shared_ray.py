"""One Ray session for all the processes that a command starts, such as the stages of ``dvc repro``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import psutil

from components.addresses import VARIABLE, cluster_address
from components.cluster import SESSION, RaySettings, ray_session
from components.errors import ReelTuneError


def run_in_session(command: Sequence[str], settings: RaySettings) -> int:
    """Runs a command whose processes find a Ray session at RAY_ADDRESS, and ends the session after it.

    Each process that starts a local cluster waits ten seconds or more for it. Joining one takes a second. If
    RAY_ADDRESS is set already, the command uses that cluster.

    Args:
        command: The program and its arguments.
        settings: The size of the local cluster.

    Returns:
        The command's exit status; 128 plus the signal's number if a signal ended it.

    Raises:
        ReelTuneError: The program cannot be started, or :func:`~components.cluster.ray_session` raises it.
    """
    signal.signal(signal.SIGTERM, _exit)  # its default would end this process and not the command
    started = cluster_address() is None
    with ray_session(settings, log_to_driver=False):
        import ray

        address = ray.get_runtime_context().gcs_address
        # ray_session has set the other variables that every process of this session needs.
        variables = {**os.environ, VARIABLE: address, **({SESSION: address} if started else {})}
        try:
            process = subprocess.Popen(command, env=variables)
        except OSError as error:
            raise ReelTuneError(
                "the command does not start", where=command[0], found=error.strerror, cure="is it on PATH?"
            ) from error
        status = _wait(process)
    return status if status >= 0 else 128 - status


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a process, also after a signal: the session must outlast whoever uses it."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # Ctrl-C reaches the process too
        raise
    except SystemExit:
        if process.poll() is not None:
            raise
        # DVC, for one, does not tell its stage.
        first = psutil.Process(process.pid)
        family = [first, *first.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        psutil.wait_procs(family)
        raise
