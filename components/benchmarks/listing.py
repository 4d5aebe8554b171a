"""Lists the files of a collection's folder. One odd entry does not stop the listing of the others.

A name that is not UTF-8 is listed with surrogate escapes, as Python reads it from the disk. An entry that cannot be
looked at counts as a file that is not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyarrow import fs

from components import storage
from components.errors import DataError
from components.video import is_unicode


@dataclass(frozen=True)
class Found:
    """One entry of a listing that is not a folder.

    Args:
        path: Its path below the listed folder, with ``/`` between names.
        is_there: False for a link that leads nowhere or cannot be followed.
        is_folder: True only for a folder that cannot be listed, or that is a link to a folder around it.
    """

    path: str
    is_there: bool = True
    is_folder: bool = False

    @property
    def is_text(self) -> bool:
        """Whether the name is UTF-8, so that it can be written into a manifest."""
        return is_unicode(self.path)

    @property
    def is_hidden(self) -> bool:
        """Whether the file or a folder above it starts with a dot, as the ``._`` files of macOS do."""
        return any(part.startswith(".") for part in self.path.split("/"))


def shown(name: str) -> str:
    """``name`` as it can be printed on one line. Bytes that are not UTF-8 and control characters are escaped."""
    try:
        text = os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def names(folder: str) -> list[Found]:
    """The files directly in ``folder``, sorted by name. Empty if there is no such folder.

    Raises:
        DataError: The folder cannot be listed, or its storage does not answer.
    """
    return _listed(folder, deep=False)


def walk(folder: str) -> list[Found]:
    """The files in ``folder`` and in all folders below it, sorted by path. Empty if there is no such folder.

    Links to folders are followed, except to one that contains the link.

    Raises:
        DataError: The folder cannot be listed, or its storage does not answer.
    """
    return _listed(folder, deep=True)


def _listed(folder: str, deep: bool) -> list[Found]:
    files, path = storage.filesystem(folder)
    try:
        if isinstance(files, fs.LocalFileSystem):
            return sorted(_local(path, deep), key=lambda found: found.path)
        selector = fs.FileSelector(path, recursive=deep, allow_not_found=True)
        infos = [info for info in files.get_file_info(selector) if info.type != fs.FileType.Directory]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError("cannot be listed", where=folder, cure=str(error)) from None
    return sorted((Found(_below(path, info.path)) for info in infos), key=lambda found: found.path)


def _below(folder: str, path: str) -> str:
    return str(PurePosixPath(path).relative_to(PurePosixPath(folder)))


def _local(folder: str, deep: bool) -> Iterator[Found]:
    """Lists a folder of this machine. Each folder waits with the device and inode of itself and all around it."""
    waiting: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(folder, "", ())]
    while waiting:
        place, prefix, around = waiting.pop()
        try:
            status = os.stat(place)
            with os.scandir(place) as listed:
                entries = list(listed)
        except OSError:  # no permission, or removed a moment ago: the folder counts as one entry that was not read
            if not prefix:
                raise
            yield Found(prefix.rstrip("/"), is_there=False, is_folder=True)
            continue
        key = status.st_dev, status.st_ino
        if key in around:
            yield Found(prefix.rstrip("/"), is_folder=True)
            continue
        for entry in entries:
            if not _is_folder(entry):
                yield Found(prefix + entry.name, is_there=_is_there(entry))
            elif deep:
                waiting.append((entry.path, f"{prefix}{entry.name}/", (*around, key)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed
        return False


def _is_there(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return True
    try:
        os.stat(entry.path)
    except OSError:
        return False
    return True
