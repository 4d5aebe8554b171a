"""Whether the process that drives a run still exists, on this machine or on another one.

A process id means something within one boot and one container only. Elsewhere the only sign of life is the run's
heartbeat, a tag that its driver writes every few seconds.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping

from components.errors import RegistryError
from components.liveness import identity, is_alive, is_local

logger = logging.getLogger(__name__)

BEAT_SECONDS = 20.0
# Without a beat for so long, a driver elsewhere is taken for lost. Clocks of machines may differ by minutes.
LOST_SECONDS = 900.0
# Beats to wait for before a driver that does the same work elsewhere is taken for lost. No clock is needed for this.
WATCHED_BEATS = 3

HEARTBEAT = "heartbeat"


def tags_of_this_process() -> dict[str, str]:
    """Tags of a run that identify its driver."""
    return {"host": socket.gethostname(), "pid": str(os.getpid()), "process": identity(), HEARTBEAT: beat()}


def beat() -> str:
    """The value of a heartbeat."""
    return f"{time.time():.3f}"


class Heartbeat:
    """Calls a function every few seconds in a thread, for the length of a ``with`` block.

    Args:
        write: Writes one heartbeat. It must not raise a :class:`RegistryError` for a store that is away for a while.
    """

    def __init__(self, write: Callable[[], None]) -> None:
        self._write = write
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            self._write()


def has_driver(tags: Mapping[str, str], *, is_same_work: bool, look: Callable[[], Mapping[str, str]]) -> bool:
    """Whether a run that is marked as running still has its driver.

    Args:
        tags: The run's tags.
        is_same_work: Whether the caller is about to do the same work. Only then is it worth to wait for an answer.
        look: Reads the run's tags again.
    """
    process = tags.get("process", "")
    if is_local(process):
        return is_alive(process)
    is_this_host = tags.get("host") == socket.gethostname()
    if not process:
        return not is_this_host or _has_process(tags.get("pid", ""))
    if HEARTBEAT not in tags:
        # Written by an earlier release, or a trial, whose search has the heartbeat.
        return not is_this_host and not is_same_work
    if time.time() - _seconds(tags[HEARTBEAT]) > LOST_SECONDS:
        return False
    return not is_same_work or _beats(tags, look)


def refuse_second(run_id: str, tags: Mapping[str, str]) -> RegistryError:
    """The error that the same work is already being done."""
    return RegistryError(
        "the same work is running already",
        where=f"run {run_id}",
        found=f"process {tags.get('pid')} on {tags.get('host')}",
        cure="wait until it has finished, or end it",
    )


def _beats(tags: Mapping[str, str], look: Callable[[], Mapping[str, str]]) -> bool:
    seconds = BEAT_SECONDS * WATCHED_BEATS
    host = tags.get("host")
    logger.info("the same work was started on %s: waiting up to %.0f s for a sign that it still runs", host, seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(BEAT_SECONDS / 4)
        if look().get(HEARTBEAT) != tags[HEARTBEAT]:
            return True
    return False


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0  # edited by hand: no sign of life


def _has_process(pid: str) -> bool:
    """Whether a process of this machine has this id, which is all that release 0.1 wrote. It may be a later process."""
    if not pid.isdecimal() or int(pid) == 0:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it belongs to another user
    return True
