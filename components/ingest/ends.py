"""How a run ends: signals, faults of the disk, and the last line in the event log."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from components.errors import ReelTuneError, one_disk_fault, without_secrets
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


def storage_faults(where: Path) -> contextlib.AbstractContextManager[None]:
    """Turns a full or faulty disk into one error. No half-written file is left, so the same command continues.

    Args:
        where: The folder that is written to, for the message.
    """
    return one_disk_fault(where, "mend that, and the same command continues from the last finished shard")


def _note(task_folder: Path, event: events.Event) -> None:
    try:
        events.write_event(task_folder, event)
    except OSError as error:  # often the same fault that ends the run, and that one has to be told
        log.warning("%s does not take the last event: %s", task_folder / events.EVENTS, error.strerror)
