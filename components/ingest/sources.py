"""Source files of videos, wherever they lie: whether one changed, and a local copy while it is decoded."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from pyarrow import fs

from components import storage
from components.provenance import sha256_file

# Size in bytes and modification time in ns of a file when it was looked at.
Identity = tuple[int, int]

TRIES = 3
NOT_FETCHED = "not_fetched"


class FetchError(Exception):
    """A file that its storage does not give.

    Args:
        reason: a key of :data:`components.frames.schema.REASONS`.
        detail: type of the exception behind it.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def identities(locations: Iterable[str]) -> dict[str, Identity | None]:
    """Identity of every file, None where there is none; remote folders are listed once instead of asked per file.

    Raises:
        DataError: a storage does not answer.
    """
    found: dict[str, Identity | None] = {}
    remote: dict[str, list[str]] = {}
    for location in locations:
        if storage.is_uri(location):
            remote.setdefault(storage.split(location)[0], []).append(location)
        else:
            found[location] = _of_local(location)
    for folder, members in remote.items():
        listed = {info.base_name: _of_info(info) for info in storage.file_infos(folder)}
        found.update((location, listed.get(storage.split(location)[1])) for location in members)
    return found


def identity(location: str) -> Identity | None:
    """Identity of one file, None where there is none.

    Raises:
        FetchError: its storage does not answer.
    """
    if not storage.is_uri(location):
        return _of_local(location)
    files, path = storage.filesystem(location)
    try:
        return _of_info(files.get_file_info(path))
    except OSError as error:
        raise FetchError(NOT_FETCHED, type(error).__name__) from None


def _of_local(location: str) -> Identity | None:
    try:
        found = os.stat(location)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def _of_info(info: fs.FileInfo) -> Identity | None:
    return (info.size, info.mtime_ns) if info.type == fs.FileType.File else None


@contextlib.contextmanager
def local_file(location: str) -> Iterator[str]:
    """A path from which decoders can read; a remote file is copied for the length of the block, under its own name.

    Raises:
        FetchError: missing_file, or not_fetched after :data:`TRIES` attempts.
    """
    if not storage.is_uri(location):
        yield location
        return
    # The name stays, since decoders look at endings and one sampling rule draws by it.
    with tempfile.TemporaryDirectory(prefix="reeltune-") as folder:
        path = Path(folder) / PurePosixPath(storage.split(location)[1]).name
        _fetch(location, path)
        yield str(path)


def _fetch(location: str, path: Path) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            return storage.download(location, path)
        except FileNotFoundError:
            raise FetchError("missing_file") from None
        except OSError as error:
            if attempt == TRIES:
                raise FetchError(NOT_FETCHED, type(error).__name__) from None
            time.sleep(2.0 ** (attempt - 1))
    raise AssertionError


def content_hash(path: str) -> str | None:
    """Hex SHA-256 of a local file; None where it cannot be read or is none that ends, such as a pipe."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        return sha256_file(Path(path))
    except (OSError, ValueError):
        return None
