"""What a process is doing right now, reported to whoever watches it.

Long work calls :func:`mark`. Without a listener nothing happens, so library code need not know who watches.
"""

from __future__ import annotations

from collections.abc import Callable

_listener: Callable[[str | None], None] | None = None


def mark(label: str | None = None) -> None:
    """Reports what this process does from now on. None reports progress on the same work as before."""
    if _listener is not None:
        _listener(label)


def listen(listener: Callable[[str | None], None] | None) -> None:
    """Sends every later :func:`mark` to ``listener``. None stops this."""
    global _listener
    _listener = listener
