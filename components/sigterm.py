"""SIGTERM while Ray starts and runs. Ray replaces the handler by others, of which the one in C++ aborts the process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# How long the handler in C++ stays at most.
LOOK_SECONDS = 0.005

# Larger than the structure of any system.
ACTION_BYTES = 512


class Sigterm:
    """The handler that is set when this object is made. It is kept through Ray's start, and set again afterwards.

    Attributes:
        stopped: What the handler raised. Where Ray waits, it raises something else in its place.
    """

    def __init__(self) -> None:
        self.stopped: BaseException | None = None
        self._handler = signal.getsignal(signal.SIGTERM)
        self._is_ours = threading.current_thread() is threading.main_thread()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keeps the handler during a ``with`` block in which Ray starts."""
        if not self._is_ours:
            yield
            return
        signal.signal(signal.SIGTERM, self._stop)
        done = threading.Event()
        thread = threading.Thread(target=_keep, args=(_action(), done), name="sigterm", daemon=True)
        thread.start()
        try:
            yield
        except SystemExit:
            # Ray's handler in Python raises this, with another exit code.
            self._stop(signal.SIGTERM, None)
            raise
        finally:
            done.set()
            thread.join()
            signal.signal(signal.SIGTERM, self._stop if callable(self._handler) else signal.SIG_DFL)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped is not None:
            raise self.stopped
        if not callable(self._handler):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        try:
            self._handler(number, frame)
        except BaseException as stop:
            self.stopped = stop
            raise


def _keep(wanted: bytes, done: threading.Event) -> None:
    """Sets the process's action again whenever another one is found. Ray gives Python no turn to do so."""
    while not done.wait(LOOK_SECONDS):
        if _action() != wanted:
            _libc().sigaction(signal.SIGTERM, wanted, None)


def _action() -> bytes:
    """What the process does at SIGTERM, as the C library describes it. Python's handlers all have the same action."""
    found = ctypes.create_string_buffer(ACTION_BYTES)
    _libc().sigaction(signal.SIGTERM, None, found)
    return found.raw


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
