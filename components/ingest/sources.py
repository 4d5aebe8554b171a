"""The source files of videos, on a disk or at a URI: whether one changed, and a local copy while it is decoded."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from pyarrow import fs

from components import storage
from components.ingest.records import NOT_FETCHED, Identity

TRIES = 3


class FetchError(Exception):
    """A file that its storage does not deliver.

    Args:
        reason: A key of :data:`components.frames.schema.REASONS`.
        detail: Type of the underlying exception.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def identities(locations: Iterable[str]) -> dict[str, Identity | None]:
    """Looks up the identity of every file, with None where there is no file.

    Remote folders are listed once, instead of one request per file.

    Raises:
        DataError: A storage does not answer.
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
    """Looks up the identity of one file. None if there is no file.

    Raises:
        FetchError: The storage does not answer.
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
    """Yields a path that decoders can read. A remote file is copied, under its own name, until the block ends.

    Raises:
        FetchError: missing_file, or not_fetched after :data:`TRIES` attempts.
    """
    if not storage.is_uri(location):
        yield location
        return
    # The copy keeps the name: decoders look at its ending, and one sampling rule draws by it.
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
