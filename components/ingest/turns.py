"""Turns of the decoding processes of one machine: many at a time, or one alone.

A video that failed for lack of memory or time is tried again without others next to it. The turns are locks on two
files, which the kernel frees whatever ends a process. A process that waits for a turn alone holds the gate, so that
no new turn begins before its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

POLL_SECONDS = 0.02


class Turns:
    """The turns of this user's decoding processes on this machine.

    Args:
        patience_seconds: Whoever waited this long goes on without a turn. A stopped process may hold one forever.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        # Files of other users are never opened.
        base = Path(tempfile.gettempdir()) / f"reeltune-decoding-{os.getuid()}"
        self._gate, self._room = (
            os.open(f"{base}.{name}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            for name in ("gate", "room")
        )

    def close(self) -> None:
        """Closes the files."""
        os.close(self._gate)
        os.close(self._room)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Holds a turn next to others during a ``with`` block."""
        with self._held(self._gate, fcntl.LOCK_EX):
            self._take(self._room, fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the only turn during a ``with`` block."""
        with self._held(self._gate, fcntl.LOCK_EX), self._held(self._room, fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def _held(self, file: int, kind: int) -> Iterator[None]:
        self._take(file, kind)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def _take(self, file: int, kind: int) -> None:
        end = time.monotonic() + self._patience_seconds
        while True:
            try:
                return fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return
                time.sleep(POLL_SECONDS)
