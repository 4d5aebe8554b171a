"""SIGTERM while Ray starts and runs. Ray sets handlers of its own, with other exit codes."""

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
    """The handler that is set when this object is made. It waits while Ray starts, and is set again afterwards.

    Attributes:
        stopped: What the handler raised. Where Ray waits, it raises something else in its place.
    """

    def __init__(self) -> None:
        self.stopped: BaseException | None = None
        self._came = False
        self._handler = signal.getsignal(signal.SIGTERM)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Puts a signal off until the end of a ``with`` block in which Ray starts. Half a start crashes in its end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        from ray._private import utils

        signal.signal(signal.SIGTERM, self._put_off)
        set_by_ray, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
        try:
            yield
        finally:
            utils.set_sigterm_handler = set_by_ray
            signal.signal(signal.SIGTERM, self._stop if callable(self._handler) else signal.SIG_DFL)
            if self._came:
                os.kill(os.getpid(), signal.SIGTERM)

    def _put_off(self, number: int, frame: FrameType | None) -> None:
        self._came = True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        assert callable(self._handler)
        try:
            self._handler(number, frame)
        except BaseException as stop:
            self.stopped = stop
            raise
