"""What a training tells while it runs: rank 0 appends lines to a file, the driver follows it.

So workers need neither the tracking store nor a terminal, and a slow store never delays a step.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5


class ProgressWriter(logging.Handler):
    """Appends figures and log messages as JSON lines.

    Args:
        path: read by a :class:`ProgressFollower`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A killed writer may have left half a line, which must not swallow ours.
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._stream = path.open("a", encoding="utf-8")
        if torn:
            self._stream.write("\n")

    def figures(self, step: int, figures: dict[str, float]) -> None:
        """Passes figures on to the driver's log."""
        self._write({"step": step, "figures": figures})

    def emit(self, record: logging.LogRecord) -> None:
        """Passes a message on to the driver's terminal."""
        self._write({"message": record.getMessage(), "level": record.levelno})

    def _write(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


class ProgressFollower:
    """Follows a progress file for the length of a ``with`` block, from what is already there on.

    Args:
        path: written by a :class:`ProgressWriter`, maybe later, maybe by several in turn.
        log: gets the figures; a failure in it ends the block with its error.
    """

    def __init__(self, path: Path, log: Callable[[int, dict[str, float]], None]) -> None:
        self._path = path
        self._log = log
        self._offset = path.stat().st_size if path.exists() else 0
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
                self._read()
            self._read()
        except Exception as error:  # handed to the thread that waits for the training
            logger.error("figures are no longer logged: %s", error)
            self._error = error

    def _read(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            # A line without its end is still being written.
            whole, newline, _ = stream.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            self._pass_on(line)

    def _pass_on(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            logger.warning("unreadable progress line: %r", line[:80])
            return
        if "message" in entry:
            logger.log(entry["level"], "%s", entry["message"])
        else:
            self._log(entry["step"], entry["figures"])
