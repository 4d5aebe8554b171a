"""How a run ends: signals, faults of the disk, and the last line in the event log."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from components.errors import DISK_FAULTS, DataError, ReelTuneError, without_secrets
from components.ingest import events

log = logging.getLogger(__name__)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt during a ``with`` block.

    Ray installs its handlers too. Where Ray waits, it turns what a handler raises into KeyboardInterrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def logged_end(task_folder: Path, task_name: str) -> Iterator[None]:
    """Logs how a run ends. If it was interrupted, the error says how to continue."""
    try:
        yield
    except KeyboardInterrupt as stop:
        name = str(stop) or "a signal"
        _note(task_folder, events.Interrupted(name))
        raise ReelTuneError(
            f"interrupted by {name}; finished shards are kept",
            where=f"task {task_name}",
            cure="the same command continues from there",
        ) from None
    except Exception as error:
        _note(task_folder, events.Failed(without_secrets(str(error))))
        raise


@contextlib.contextmanager
def storage_faults(where: Path) -> Iterator[None]:
    """Turns a full or faulty disk into one error. No half-written file is left, so the same command continues.

    Args:
        where: The folder that is written to, for the message.

    Raises:
        DataError: One of :data:`components.errors.DISK_FAULTS`.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        full = isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_FULL
        number = errno.ENOSPC if full else getattr(error, "errno", None)
        if number not in DISK_FAULTS:
            raise
        cure = "mend that, and the same command continues from the last finished shard"
        raise DataError(DISK_FAULTS[number], where=getattr(error, "filename", None) or where, cure=cure) from None


def _note(task_folder: Path, event: events.Event) -> None:
    try:
        events.write_event(task_folder, event)
    except OSError as error:  # often the same fault that ends the run, and that one has to be told
        log.warning("%s does not take the last event: %s", task_folder / events.EVENTS, error.strerror)
