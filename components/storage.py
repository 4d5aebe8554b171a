"""Files at local paths and URIs through pyarrow.fs, and writes that never show a half-written file."""

from __future__ import annotations

import codecs
import contextlib
import functools
import os
import shlex
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
    """``location`` as a URI or an absolute path. A relative path starts from ``root``."""
    return location if is_uri(location) else str(root.resolve() / location)


def relative(root: Path, location: str) -> str:
    """The inverse of :func:`resolve`. Paths under ``root`` become relative, so that records are portable."""
    if is_uri(location) or not Path(location).is_relative_to(root.resolve()):
        return location
    return Path(location).relative_to(root.resolve()).as_posix()


def join(folder: Location, *names: str) -> str:
    """Appends ``names`` to ``folder``, a path or URI. The part of a URI after ``?`` stays at the end."""
    if is_uri(folder):
        place, mark, query = str(folder).partition("?")
        return "/".join([place.rstrip("/"), *(quote(name) for name in names)]) + mark + query
    return str(Path(folder).joinpath(*names))


def split(location: str) -> tuple[str, str]:
    """Splits a file into its folder and its name: the inverse of :func:`join` with one name."""
    if not is_uri(location):
        folder, _, name = location.rpartition("/")
        return folder, name
    place, mark, query = location.partition("?")
    folder, _, name = place.rpartition("/")
    return folder + mark + query, unquote(name)


def plain(location: str) -> str:
    """A location without quoting and without the part of a URI after ``?``, which only says how to reach it."""
    return unquote(location.partition("?")[0]) if is_uri(location) else location


def filesystem(location: Location) -> tuple[fs.FileSystem, str]:
    """The file system of ``location`` and the path inside it.

    Raises:
        DataError: The URI is of an unknown kind or contains credentials, or the environment has no credentials for it.
    """
    if not is_uri(location):
        return fs.LocalFileSystem(), os.path.abspath(location)
    parts = urlsplit(str(location))
    if parts.password is not None or ("@" in parts.netloc and parts.scheme in ("s3", "gs")):
        raise DataError(
            "credentials in a URI, which is written into cards and ledgers",
            where=f"{parts.scheme}://***@{parts.netloc.rpartition('@')[2]}{parts.path}",
            expected="a URI without credentials",
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
    """Kept in a cache, since opening one may ask the network for the region, and each has its connections."""
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}/?{query}")[0]


def exists(location: Location) -> bool:
    """Whether a file or folder exists."""
    return size(location) is not None


def size(location: Location) -> int | None:
    """The length of a file in bytes, 0 for a folder, and None if nothing is there.

    Raises:
        DataError: The storage does not answer.
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
    """Reads a file. On a disk, only a regular one is opened: a pipe would never answer, and a device never end.

    Raises:
        MissingFileError: The file does not exist.
        DataError: The file cannot be read.
    """
    files, path = filesystem(location)
    if isinstance(files, fs.LocalFileSystem) and os.path.exists(path) and not os.path.isfile(path):
        raise DataError("not a regular file", where=location, expected="a file")
    try:
        with files.open_input_stream(path) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        raise MissingFileError("no such file", where=location) from None
    except OSError as error:
        raise DataError("cannot be read", where=location, cure=str(error)) from None


def read_text(location: Location) -> str:
    """Reads a UTF-8 file, without a byte order mark.

    Raises:
        MissingFileError: The file does not exist.
        DataError: The file cannot be read or is not UTF-8.
    """
    content = read_bytes(location)
    try:
        text = content.decode("utf-8-sig")
        place = content.find(0)
    except UnicodeDecodeError as error:
        text, place = "", error.start + len(content) - len(error.object)
    if place < 0:
        return text
    name, encoding = shlex.quote(split(str(location))[1]), _encoding(content)
    convert = f"iconv -f {encoding} -t UTF-8 {name}"
    if text and not encoding.startswith("UTF"):
        convert = f"tr -d '\\000' < {name}"  # a zero in a text of single bytes
    raise DataError(
        f"not UTF-8 at byte {place}",
        where=f"{location}:{content.count(bytes([10]), 0, place) + 1}",
        found=content[place : place + 1],
        expected="UTF-8 without zeros",
        cure=f"save it as UTF-8: `{convert} > new && mv new {name}`",
    )


def _encoding(content: bytes) -> str:
    """What a file that is not UTF-8 most likely is: by its byte order mark or its zeros, or what Windows writes."""
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    for name, zeros in (("UTF-16LE", content[1::2]), ("UTF-16BE", content[::2])):
        if zeros.count(0) > len(zeros) / 2:
            return name
    return "WINDOWS-1252"


def list_files(folder: Location) -> list[str]:
    """Lists the files directly in ``folder``, sorted by name. Empty if there is no such folder."""
    return sorted(info.base_name for info in file_infos(folder))


def file_infos(folder: Location) -> list[fs.FileInfo]:
    """Name, size and time of the files directly in ``folder``. Empty if there is no such folder.

    Raises:
        DataError: The storage does not answer.
    """
    files, path = filesystem(folder)
    with _answering(folder):
        infos = files.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info for info in infos if info.type != fs.FileType.Directory]


def download(location: str, target: Path) -> None:
    """Copies a file to a local path, in pieces.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The storage does not return it.
    """
    files, path = filesystem(location)
    with files.open_input_stream(path) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, PIECE_BYTES)


def upload(source: Path, target: Location) -> None:
    """Copies a local file to a path or URI. It appears there whole or not at all.

    Raises:
        DataError: The storage does not accept it.
    """
    files, path = filesystem(target)
    if isinstance(files, fs.LocalFileSystem):
        with atomic_file(Path(path)) as temporary:
            shutil.copyfile(source, temporary)
        return
    with _answering(target), source.open("rb") as stream, files.open_output_stream(path) as sink:
        # An object appears when its stream is closed.
        shutil.copyfileobj(stream, sink, PIECE_BYTES)


def delete_file(location: Location) -> None:
    """Deletes a file.

    Raises:
        DataError: The storage does not answer.
    """
    files, path = filesystem(location)
    with _answering(location):
        files.delete_file(path)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to. At the end of the block, one rename makes it ``path``.

    If the block raises, ``path`` stays as it was. Processes that write to one ``path`` do not disturb each other.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(location: Location, content: bytes) -> None:
    """Writes a whole file at once: by a rename on a local file system, and as one object elsewhere.

    Raises:
        OSError: The storage does not accept it.
    """
    files, path = filesystem(location)
    if isinstance(files, fs.LocalFileSystem):
        with atomic_file(Path(path)) as temporary:
            temporary.write_bytes(content)
        return
    with files.open_output_stream(path) as stream:
        stream.write(content)


def delete_folder(location: Location) -> None:
    """Deletes a folder and its content, if it exists.

    Raises:
        OSError: The storage refuses.
    """
    files, path = filesystem(location)
    if files.get_file_info(path).type != fs.FileType.NotFound:
        files.delete_dir(path)


def publish_folder(source: Path, target: Path) -> None:
    """Makes ``target`` a folder with exactly the files of ``source``, without hidden files. ``source`` stays.

    The copy is made next to ``target`` and renamed into place. Files are hard-linked if the file system allows it, so
    that a published store takes no space twice. Published files are replaced and never changed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left_over in target.parent.glob(f".{target.name}.*-[0-9]*"):
        shutil.rmtree(left_over)
    temporary = target.with_name(f".{target.name}.new-{os.getpid()}")
    temporary.mkdir()
    for file in sorted(source.glob("[!.]*")):
        _link_or_copy(file, temporary / file.name)
    _sync_folder(temporary)
    move_folder(temporary, target)


def move_folder(source: Path, target: Path) -> None:
    """Renames ``source`` to ``target``, next to it. A folder that was there goes after the new one is in place."""
    previous = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        os.replace(target, previous)
    os.replace(source, target)
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
