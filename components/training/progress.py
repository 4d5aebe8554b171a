"""What a training tells while it runs: rank 0 posts lines to a mailbox, the driver empties it.

So workers need neither the tracking store nor a terminal nor a folder shared with the driver, and a slow store never
delays a step. The mailbox is a process of its own: nothing here imports PyTorch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5

Line = dict[str, Any]


class Mailbox:
    """Lines on their way from workers to the driver, and the first fault; run as a Ray actor beside the driver."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._fault = ""

    def post(self, line: Line) -> None:
        """Adds a line."""
        self._lines.append(line)

    def take(self) -> list[Line]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def report(self, fault: str) -> None:
        """Keeps the first fault: those after it are its consequences."""
        self._fault = self._fault or fault

    def fault(self) -> str:
        """What was reported first, or nothing."""
        return self._fault


class ProgressWriter(logging.Handler):
    """Passes figures and log messages on as lines.

    Args:
        post: of a :class:`Mailbox`.
    """

    def __init__(self, post: Callable[[Line], object]) -> None:
        super().__init__(logging.INFO)
        self._post = post

    def figures(self, step: int, figures: dict[str, float]) -> None:
        """Passes figures on to the driver's log."""
        self._post({"step": step, "figures": figures})

    def emit(self, record: logging.LogRecord) -> None:
        """Passes a message on to the driver's terminal."""
        self._post({"message": record.getMessage(), "level": record.levelno})


class ProgressFollower:
    """Empties a mailbox again and again for the length of a ``with`` block, and once more at its end.

    Args:
        take: of a :class:`Mailbox`.
        log: gets the figures; a failure in it ends the block with its error.
    """

    def __init__(self, take: Callable[[], list[Line]], log: Callable[[int, dict[str, float]], None]) -> None:
        self._take = take
        self._log = log
        self._done = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def __enter__(self) -> ProgressFollower:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def _follow(self) -> None:
        try:
            while not self._done.wait(POLL_SECONDS):
                self._pass_on()
            self._pass_on()
        except Exception as error:  # handed to the thread that waits for the training
            logger.error("figures are no longer logged: %s", error)
            self._error = error

    def _pass_on(self) -> None:
        for line in self._take():
            if "message" in line:
                logger.log(line["level"], "%s", line["message"])
            else:
                self._log(line["step"], line["figures"])
