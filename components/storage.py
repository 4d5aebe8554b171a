"""Where files live: local paths and URIs through pyarrow.fs, and writing that never shows a half-written file."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pyarrow import fs

from components.errors import DataError

Location = str | Path


def is_uri(location: Location) -> bool:
    """Whether ``location`` names a file system (``s3://bucket/key``) instead of a local path."""
    return isinstance(location, str) and "://" in location


def resolve(root: Path, location: str) -> str:
    """``location`` as a URI or an absolute path; relative paths start from ``root``."""
    return location if is_uri(location) else str(root.resolve() / location)


def relative(root: Path, location: str) -> str:
    """The inverse of :func:`resolve`: paths under ``root`` lose it, so that records are equal on every machine."""
    if is_uri(location) or not Path(location).is_relative_to(root.resolve()):
        return location
    return Path(location).relative_to(root.resolve()).as_posix()


def join(folder: Location, *names: str) -> str:
    """``names`` below ``folder``, which may be a URI; its options (``?endpoint_override=...``) stay at the end."""
    if is_uri(folder):
        place, mark, options = str(folder).partition("?")
        return "/".join([place.rstrip("/"), *names]) + mark + options
    return str(Path(folder).joinpath(*names))


def filesystem(location: Location) -> tuple[fs.FileSystem, str]:
    """The file system of ``location`` and the path inside it.

    Raises:
        DataError: a URI of an unknown kind or without its credentials.
    """
    if not is_uri(location):
        return fs.LocalFileSystem(), os.path.abspath(location)
    try:
        found, path = fs.FileSystem.from_uri(str(location))
    except (OSError, ValueError) as error:
        raise DataError(
            "not a usable URI", where=location, expected="a path, file://, s3:// or gs://", cure=str(error)
        ) from None
    return found, path


def exists(location: Location) -> bool:
    """Whether a file or folder is there."""
    return size(location) is not None


def size(location: Location) -> int | None:
    """Length of a file in bytes, 0 for a folder, None where nothing is."""
    files, path = filesystem(location)
    info = files.get_file_info(path)
    return None if info.type == fs.FileType.NotFound else int(info.size or 0)


def read_bytes(location: Location) -> bytes:
    """The content of a file.

    Raises:
        DataError: no such file, or it cannot be read.
    """
    files, path = filesystem(location)
    try:
        with files.open_input_stream(path) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        raise DataError("no such file", where=location) from None
    except OSError as error:
        raise DataError("cannot be read", where=location, cure=str(error)) from None


def read_text(location: Location) -> str:
    """The content of a UTF-8 file, without a byte order mark.

    Raises:
        DataError: no such file, or it is not UTF-8.
    """
    content = read_bytes(location)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        raise DataError(
            f"not UTF-8 at byte {error.start + len(content) - len(error.object)}",
            where=f"{location}:{before.count(bytes([10])) + 1}",
            found=error.object[error.start : error.start + 1],
            expected="UTF-8",
            cure="save the file as UTF-8, such as with `iconv -t UTF-8`",
        ) from None


def list_files(folder: Location) -> list[str]:
    """Sorted names of what lies directly in ``folder`` and is no folder itself; empty where there is no folder."""
    files, path = filesystem(folder)
    infos = files.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in infos if info.type != fs.FileType.Directory)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a path aside to write to; at the end of the block it becomes ``path`` by one rename.

    If the block raises, ``path`` stays as it was. Writers of one ``path`` in several processes do not meet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}.tmp")
    try:
        yield aside
        with aside.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file at once."""
    with atomic_file(path) as aside:
        aside.write_bytes(content)


def publish_folder(source: Path, target: Path) -> None:
    """Makes ``target`` a folder with exactly the files of ``source``, which stays; hidden files are left out.

    The copy is made beside ``target`` and renamed into place. Files are hard-linked where the file system allows,
    so a published store takes no second room; published files are replaced, never changed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left_over in target.parent.glob(f".{target.name}.*-[0-9]*"):
        shutil.rmtree(left_over)
    aside = target.with_name(f".{target.name}.new-{os.getpid()}")
    aside.mkdir()
    for file in sorted(source.glob("[!.]*")):
        _link_or_copy(file, aside / file.name)
    _sync_folder(aside)
    previous = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        os.replace(target, previous)
    os.replace(aside, target)
    _sync_folder(target.parent)
    if previous.exists():
        shutil.rmtree(previous)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another device, or a file system without hard links
        shutil.copyfile(source, target)
        with target.open("rb") as stream:
            os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
