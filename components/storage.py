"""Where files live: local paths and URIs through pyarrow.fs, and writing that never shows a half-written file."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from pyarrow import fs

from components.errors import DataError, MissingFileError

Location = str | Path

PIECE_BYTES = 1 << 20


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
    """``names`` below ``folder``, which may be a URI; the part of a URI after ``?`` stays at its end."""
    if is_uri(folder):
        place, mark, query = str(folder).partition("?")
        return "/".join([place.rstrip("/"), *(quote(name) for name in names)]) + mark + query
    return str(Path(folder).joinpath(*names))


def split(location: str) -> tuple[str, str]:
    """The folder and the name of a file: the inverse of :func:`join` with one name."""
    if not is_uri(location):
        folder, _, name = location.rpartition("/")
        return folder, name
    place, mark, query = location.partition("?")
    folder, _, name = place.rpartition("/")
    return folder + mark + query, unquote(name)


def plain(location: str) -> str:
    """What a location names: of a URI without quoting, and without what follows ``?`` and says how to get there."""
    return unquote(location.partition("?")[0]) if is_uri(location) else location


def filesystem(location: Location) -> tuple[fs.FileSystem, str]:
    """The file system of ``location`` and the path inside it.

    Raises:
        DataError: a URI of an unknown kind, one that holds credentials, or one without them in the environment.
    """
    if not is_uri(location):
        return fs.LocalFileSystem(), os.path.abspath(location)
    parts = urlsplit(str(location))
    if parts.password is not None or ("@" in parts.netloc and parts.scheme in ("s3", "gs")):
        raise DataError(
            "credentials in a URI, which is written into cards and ledgers",
            where=f"{parts.scheme}://***@{parts.netloc.rpartition('@')[2]}{parts.path}",
            expected="a URI without them",
            cure="set them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)",
        )
    try:
        if parts.scheme in ("s3", "gs") and parts.netloc:
            return _bucket(parts.scheme, parts.netloc, parts.query), parts.netloc + unquote(parts.path)
        found, path = fs.FileSystem.from_uri(str(location))
    except (OSError, ValueError) as error:
        raise DataError(
            "not a usable URI", where=location, expected="a path, file://, s3:// or gs://", cure=str(error)
        ) from None
    return found, path


@functools.lru_cache(maxsize=64)
def _bucket(scheme: str, bucket: str, query: str) -> fs.FileSystem:
    """Kept, since opening one may ask the network for the bucket's region, and connections are its own."""
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}/?{query}")[0]


def exists(location: Location) -> bool:
    """Whether a file or folder is there."""
    return size(location) is not None


def size(location: Location) -> int | None:
    """Length of a file in bytes, 0 for a folder, None where nothing is.

    Raises:
        DataError: the storage does not answer.
    """
    files, path = filesystem(location)
    with _answering(location):
        info = files.get_file_info(path)
    return None if info.type == fs.FileType.NotFound else int(info.size or 0)


@contextlib.contextmanager
def _answering(location: Location) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError("the storage does not answer", where=location, cure=str(error)) from None


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
        raise MissingFileError("no such file", where=location) from None
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
    return sorted(info.base_name for info in file_infos(folder))


def file_infos(folder: Location) -> list[fs.FileInfo]:
    """Name, size and time of what lies directly in ``folder`` and is no folder itself.

    Raises:
        DataError: the storage does not answer.
    """
    files, path = filesystem(folder)
    with _answering(folder):
        infos = files.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info for info in infos if info.type != fs.FileType.Directory]


def download(location: str, target: Path) -> None:
    """Copies a file to a local path, in pieces.

    Raises:
        FileNotFoundError: no such file.
        OSError: the storage does not give it.
    """
    files, path = filesystem(location)
    with files.open_input_stream(path) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, PIECE_BYTES)


def upload(source: Path, target: Location) -> None:
    """Copies a local file to a path or URI; it appears there whole or not at all.

    Raises:
        DataError: the storage does not take it.
    """
    files, path = filesystem(target)
    if isinstance(files, fs.LocalFileSystem):
        with atomic_file(Path(path)) as aside:
            shutil.copyfile(source, aside)
        return
    with _answering(target), source.open("rb") as stream, files.open_output_stream(path) as sink:
        # An object appears when its stream is closed.
        shutil.copyfileobj(stream, sink, PIECE_BYTES)


def delete_file(location: Location) -> None:
    """Removes a file.

    Raises:
        DataError: the storage does not answer.
    """
    files, path = filesystem(location)
    with _answering(location):
        files.delete_file(path)


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


def write_bytes(location: Location, content: bytes) -> None:
    """Writes a whole file at once: by a rename on a local file system, as one object elsewhere.

    Raises:
        OSError: the storage does not take it.
    """
    files, path = filesystem(location)
    if isinstance(files, fs.LocalFileSystem):
        with atomic_file(Path(path)) as aside:
            aside.write_bytes(content)
        return
    with files.open_output_stream(path) as stream:
        stream.write(content)


def delete_folder(location: Location) -> None:
    """Deletes a folder and what is in it, if it is there.

    Raises:
        OSError: the storage refuses.
    """
    files, path = filesystem(location)
    if files.get_file_info(path).type != fs.FileType.NotFound:
        files.delete_dir(path)


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
