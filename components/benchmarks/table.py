"""A user's collection: a table of videos and captions, or only a folder of videos.

The table is ``captions.csv``, ``captions.jsonl`` or ``captions.parquet``. It has the columns ``video`` and ``caption``.
``video`` is a path below ``videos/`` or below the collection's folder, or a URI such as ``s3://bucket/key.mp4``.
Several rows of one video are several captions. Optional columns are ``split`` (train, val or test), ``start`` and
``end`` (seconds). A part of a file is a separate video.

Without ``split``, a hash of the file's name decides. The split of a file stays the same when the table grows. All parts
of a file are in one split. Without a table, the videos in ``videos/`` are a collection to search. They are in the split
``test``, have no captions, and are used for neither training nor testing.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import SupportsFloat

import pyarrow as pa
import pyarrow.parquet as pq

from components import storage
from components.benchmarks import files
from components.benchmarks.interface import AnnotationFile, Options, Reader
from components.errors import ConfigError, DataError
from components.manifest import NO_CAPTIONS, SPLITS, Manifest, Protocol, Video

TABLES = ("captions.csv", "captions.jsonl", "captions.parquet")
NEEDED = ("video", "caption")
OPTIONAL = ("split", "start", "end")

# Characters of a path that an id cannot have. They become a dash.
UNSAFE = re.compile(r"[^\w.@+-]+|\.\.+")

Row = tuple[str, Mapping[str, object]]  # place of the row for messages, its fields


def read(task: str, folder: str, options: Options) -> Manifest:
    """Reads the manifest of a user's collection.

    Args:
        task: The name of the task.
        folder: The path or URI of the folder.
        options: ``file`` is the name of the table (default: the first of :data:`TABLES` that exists). ``val_share`` and
            ``test_share`` are the fractions of the files for validation and test if no split is given (default 0.1).

    Raises:
        ConfigError: An option is unknown, or the fractions leave nothing for training.
        DataError: The table is damaged or lacks a column, or a file is in two splits. Or a row has no caption, an
            unknown split, a segment that ends before it starts, or a path that leads out of the folder.
    """
    files.check_options(task, options, ("file", "val_share", "test_share"))
    shares = _shares(task, options)
    where = _table(folder, options)
    if where is None:
        return _without_captions(task, folder)
    rows = list(_rows(where))
    texts_of: dict[tuple[str, tuple[float | None, float | None]], list[str]] = {}
    given = any(fields["split"] for _, fields in rows)
    found = _files_below(folder, {_path(place, fields["video"]) for place, fields in rows})
    splits: dict[str, str] = {}
    for place, fields in rows:
        path, span = _path(place, fields["video"]), (_seconds(place, fields, "start"), _seconds(place, fields, "end"))
        _check_span(place, span)
        split = _given_split(place, fields["split"]) if given else split_of(storage.plain(path), *shares)
        if splits.setdefault(path, split) != split:
            raise DataError(
                "file is in two splits", where=place, found=f"{path} in {split}", expected=splits[path],
                cure="give all rows of a file the same split",
            )  # fmt: skip
        texts_of.setdefault((path, span), []).append(_caption(place, fields["caption"]))
    videos = [
        Video(video_id(storage.plain(path), span), found[path], splits[path], tuple(texts), *span)
        for (path, span), texts in texts_of.items()
    ]
    _check_clashes(where, videos)
    protocol = Protocol(
        benchmark="table",
        variant=PurePosixPath(where).name,
        caption_rule="every caption of a test video is a query",
        validation="column split" if given else "{:g} validate, {:g} tested, by SHA-256 of the file".format(*shares),
    )
    return Manifest(task, protocol, tuple(videos))


READER = Reader(
    read=read,
    files=lambda options: (
        AnnotationFile((str(options["file"]),) if "file" in options else TABLES, "file" in options),
    ),
)


def split_of(path: str, val_share: float, test_share: float) -> str:
    """The split of a file by the SHA-256 of its path below the folder of videos. It is the same on every machine."""
    place = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") / 2**64
    if place < test_share:
        return "test"
    return "val" if place < test_share + val_share else "train"


def video_id(path: str, span: tuple[float | None, float | None] = (None, None)) -> str:
    """Makes an id that is a file name: the path without its ending, then the segment.

    If characters had to be replaced, a part of the path's SHA-256 makes the ids of different files different.
    """
    stem = str(PurePosixPath(path).with_suffix(""))
    safe = UNSAFE.sub("-", stem)
    if safe != stem:
        safe = f"{safe}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    start, end = span
    if start is None and end is None:
        return safe
    return f"{safe}@{start or 0:g}-{'end' if end is None else format(end, 'g')}"


def _without_captions(task: str, folder: str) -> Manifest:
    found = files.video_files(folder)
    videos = [Video(video_id(PurePosixPath(uri).name), uri, "test", ()) for uri in sorted(found.values())]
    if not videos:
        raise DataError(
            "neither a table nor videos",
            where=folder,
            expected=f"{' or '.join(TABLES)}, or video files in {files.VIDEO_FOLDER}",
        )
    protocol = Protocol("table", "videos alone", NO_CAPTIONS, "none")
    return Manifest(task, protocol, tuple(videos))


def _shares(task: str, options: Options) -> tuple[float, float]:
    """The fractions for validation and test."""
    shares = files.share(task, options, "val_share", 0.1), files.share(task, options, "test_share", 0.1)
    if sum(shares) >= 1:
        where = f"params.yaml tasks.{task}.options"
        raise ConfigError("nothing is left to train on", where=where, found=shares, expected="a sum below 1")
    return shares


def _table(folder: str, options: Options) -> str | None:
    if "file" in options:
        name = str(options["file"])
        if PurePosixPath(name).suffix not in (".csv", ".jsonl", ".parquet"):
            raise DataError("unknown kind of table", where=name, expected=".csv, .jsonl or .parquet")
        return storage.join(folder, name)
    return next((at for name in TABLES if storage.exists(at := storage.join(folder, name))), None)


def _rows(where: str) -> Iterator[Row]:
    """The rows of a table of any kind. Absent optional fields are empty."""
    kind = PurePosixPath(where).suffix
    if kind == ".csv":
        yield from ((f"{where}:{line}", fields) for line, fields in files.read_csv(where, NEEDED, OPTIONAL))
        return
    raw = _json_lines(where) if kind == ".jsonl" else _parquet_rows(where)
    for place, content in raw:
        if missing := [name for name in NEEDED if name not in content]:
            raise DataError("column is missing", where=place, found=sorted(content), expected=", ".join(missing))
        yield place, {name: "" if content.get(name) is None else content[name] for name in (*NEEDED, *OPTIONAL)}


def _json_lines(where: str) -> Iterator[Row]:
    for number, line in files.read_lines(where):
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"not JSON: {error.msg}", where=f"{where}:{number}", expected="one object a line") from None
        if not isinstance(content, dict):
            raise DataError("not an object", where=f"{where}:{number}", found=content, expected="{'video', 'caption'}")
        yield f"{where}:{number}", content


def _parquet_rows(where: str) -> Iterator[Row]:
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(where)))
    except pa.ArrowInvalid as error:
        raise DataError("not Parquet", where=where, cure=str(error)) from None
    if not table.num_rows:
        raise DataError("no rows", where=where, expected="at least one video")
    names = [name for name in (*NEEDED, *OPTIONAL) if name in table.column_names]
    yield from ((f"{where} row {number}", row) for number, row in enumerate(table.select(names).to_pylist(), 1))


def _path(place: str, value: object) -> str:
    """The path of a row below the folder of videos, or its URI with the name quoted as in a listing."""
    if storage.is_uri(uri := str(value).strip()):
        return storage.join(*storage.split(uri))
    path = PurePosixPath(uri)
    if str(path) in ("", ".") or path.is_absolute() or ".." in path.parts or set(str(path)) & set("\\\0\n\r"):
        raise DataError(
            "not a path below the collection's folder",
            where=place,
            found=value,
            expected="a relative path without .., or a URI",
            cure=f"put or link the file into {files.VIDEO_FOLDER}",
        )
    return str(path.relative_to(files.VIDEO_FOLDER) if path.parts[0] == files.VIDEO_FOLDER else path)


def _files_below(folder: str, paths: set[str]) -> dict[str, str]:
    """The uri of each path: below ``videos``, unless the file is only below the folder itself."""
    inside, outside = (storage.join(folder, files.VIDEO_FOLDER), folder)
    uris = {path: path for path in paths if storage.is_uri(path)}
    paths = paths - set(uris)
    here = files.present([storage.join(place, path) for place in (inside, outside) for path in paths])
    for path in paths:
        candidates = [storage.join(inside, path), storage.join(outside, path)]
        uris[path] = next((uri for uri in candidates if uri in here), candidates[0])
    return uris


def _caption(place: str, value: object) -> str:
    if not isinstance(value, str) or not (text := " ".join(value.split())):
        raise DataError("empty caption", where=place, found=value, expected="a text", cure="write one or drop the row")
    return text


def _given_split(place: str, value: object) -> str:
    if value not in SPLITS:
        raise DataError(
            "unknown split", where=place, found=value, expected="train, val or test in every row, or no such column"
        )
    return str(value)


def _seconds(place: str, fields: Mapping[str, object], name: str) -> float | None:
    value = fields[name]
    if value == "":
        return None
    try:
        seconds = float(value) if isinstance(value, str | SupportsFloat) else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise DataError(f"{name} is not a time", where=place, found=value, expected="seconds, 0 or more")
    return seconds


def _check_span(place: str, span: tuple[float | None, float | None]) -> None:
    start, end = span
    if end is not None and end <= (start or 0.0):
        raise DataError("segment ends before it starts", where=place, found=span, expected="a start below the end")


def _check_clashes(where: str, videos: list[Video]) -> None:
    first: dict[str, str] = {}
    for video in videos:
        other = first.setdefault(video.video_id, video.uri)
        if other != video.uri:
            raise DataError(
                "two files get the same id",
                where=where,
                found=f"{other} and {video.uri}",
                expected="names that differ in more than their ending",
            )
