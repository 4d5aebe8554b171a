"""SIGTERM while Ray starts and runs. Ray sets a handler of its own, with another exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# Ray's handler in C++ would abort the process. It is not set if this is in the environment when Ray is imported.
NO_HANDLER = {"RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1"}


class Sigterm:
    """The handler that is set when this object is made. It counts during Ray's start, and is set again afterwards.

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
        try:
            yield
        except SystemExit:
            # Ray's handler in Python raises this.
            self._stop(signal.SIGTERM, None)
            raise
        finally:
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
