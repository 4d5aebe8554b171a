"""What a process is doing right now, told to whoever watches it.

Long work calls :func:`mark`. Without a listener nothing happens, so library code need not know who watches.
"""

from __future__ import annotations

from collections.abc import Callable

_listener: Callable[[str | None], None] | None = None


def mark(label: str | None = None) -> None:
    """Says what this process does from now on; None means the same work as before, and still making progress."""
    if _listener is not None:
        _listener(label)


def listen(listener: Callable[[str | None], None] | None) -> None:
    """Sends every later :func:`mark` to ``listener``; None stops it."""
    global _listener
    _listener = listener
