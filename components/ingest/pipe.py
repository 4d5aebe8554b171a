"""Messages between a supervisor and its decoding process: a JSON header and any number of byte strings.

The format is not pickle, since the answers were made by a C library that read an untrusted file.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

HEADER = struct.Struct(">I")
MAX_HEADER_BYTES = 1 << 24
MAX_BLOB_BYTES = 1 << 30

# Time between two calls of `watch` while waiting.
WATCH_SECONDS = 0.05


class BrokenMessageError(Exception):
    """The bytes are not a message."""


def send(pipe: int, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Writes one message to a file descriptor.

    Raises:
        BrokenPipeError: The other side is gone.
    """
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    for part in (HEADER.pack(len(text)) + text, *blobs):
        view = memoryview(part)
        while view:
            view = view[os.write(pipe, view) :]


def receive(
    pipe: int, deadline: float | None = None, watch: Callable[[], None] | None = None
) -> tuple[dict[str, Any], list[bytes]]:
    """Reads one message from a file descriptor.

    Args:
        pipe: The file descriptor.
        deadline: Value of ``time.monotonic()`` after which to give up. None means to wait forever.
        watch: Called every :data:`WATCH_SECONDS` while waiting. If it raises, the wait ends.

    Raises:
        TimeoutError: The deadline passed.
        EOFError: The other side is gone.
        BrokenMessageError: The bytes are not a message.
    """
    (length,) = HEADER.unpack(_read(pipe, HEADER.size, deadline, watch))
    if length > MAX_HEADER_BYTES:
        raise BrokenMessageError
    try:
        header = json.loads(_read(pipe, length, deadline, watch))
        sizes = [int(size) for size in header.pop("blobs")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenMessageError from error
    if any(size < 0 for size in sizes) or sum(sizes) > MAX_BLOB_BYTES:
        raise BrokenMessageError
    return header, [_read(pipe, size, deadline, watch) for size in sizes]


def _read(pipe: int, length: int, deadline: float | None, watch: Callable[[], None] | None) -> bytes:
    parts, missing = [], length
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while missing:
        _wait(poll, deadline, watch)
        part = os.read(pipe, min(missing, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _wait(poll: select.poll, deadline: float | None, watch: Callable[[], None] | None) -> None:
    while True:
        left = float("inf") if deadline is None else max(0.0, deadline - time.monotonic())
        if watch is None:
            ready = poll.poll(None if deadline is None else left * 1000)
        else:
            ready = poll.poll(min(left, WATCH_SECONDS) * 1000)
        if ready:
            return
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError
        if watch is not None:
            watch()
