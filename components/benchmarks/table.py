"""A user's collection: a table of videos and captions, or only a folder of videos.

The table is ``captions.csv``, ``captions.jsonl`` or ``captions.parquet``. It has the columns ``video`` and ``caption``.
``video`` is a path below ``videos/`` or below the collection's folder, or a URI such as ``s3://bucket/key.mp4``.
Several rows of one video are several captions, and rows that repeat a caption of their video count once. Optional
columns are ``split`` (train, val or test), ``start`` and ``end`` (seconds). A part of a file is a separate video.
Further columns are facts, by which searches are filtered (:mod:`components.benchmarks.facts`).

Without ``split``, a hash of the file's name decides. The split of a file stays the same when the table grows, except in
a collection so small that a split would be empty: there, the file with the lowest hash fills it. All parts of a file
are in one split.

Without a table, the videos in ``videos/`` and in the folders below it are a collection to search. They are in the split
``test``, have no captions, and are used for neither training nor testing. Files whose names start with a dot are none.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from components import storage
from components.benchmarks import files, listing
from components.benchmarks.facts import read_facts
from components.benchmarks.interface import AnnotationFile, Options, Reader
from components.benchmarks.rows import Row, Span, read_rows
from components.errors import ConfigError, DataError
from components.manifest import NO_CAPTIONS, SPLITS, Manifest, Protocol, first_few
from components.video import Video, is_file_name

TABLES = ("captions.csv", "captions.jsonl", "captions.parquet")

# Characters of a path that an id cannot have. They become a dash.
UNSAFE = re.compile(r"[^\w.@+-]+|\.\.+")

WHOLE: Span = (None, None)


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
            unknown split, a segment that ends before it starts, or a path that leads out of the folder. Or a split is
            empty.
    """
    files.check_options(task, options, ("file", "val_share", "test_share"))
    shares = _shares(task, options)
    where = _table(folder, options)
    if where is None:
        return _without_captions(task, folder)
    rows = read_rows(where)
    splits, validation = _given_splits(where, rows) if rows[0].split else _hashed_splits(where, rows, shares)
    texts, notes = _texts(rows)
    facts, left_out = read_facts(where, rows)
    found, ids = _files_below(folder, set(splits)), unique_ids(texts)
    videos = tuple(
        Video(ids[path, span], found[path], splits[path], captions, *span, facts=facts[path, span])
        for (path, span), captions in texts.items()
    )
    protocol = Protocol(
        benchmark="table",
        variant=PurePosixPath(where).name,
        caption_rule="every caption of a test video is a query",
        validation=validation,
    )
    return Manifest(task, protocol, videos, (*notes, *left_out, *_other_tables(folder, where)))


READER = Reader(
    read=read,
    files=lambda options: (
        AnnotationFile((str(options["file"]),) if "file" in options else TABLES, "file" in options),
    ),
)


def split_of(path: str, val_share: float, test_share: float) -> str:
    """The split of a file by the SHA-256 of its path below the folder of videos. It is the same on every machine."""
    place = _place(path)
    if place < test_share:
        return "test"
    return "val" if place < test_share + val_share else "train"


def _place(path: str) -> float:
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") / 2**64


def video_id(path: str, span: Span = WHOLE, *, is_shared: bool = False) -> str:
    """Makes an id that is a file name: the path without its ending, then the segment.

    If characters had to be replaced, a part of the path's SHA-256 makes the ids of different files different.

    Args:
        path: The path below the folder of videos.
        span: The part of the file.
        is_shared: Whether the plain id belongs to another file or part. A part of the hash then makes the difference.
    """
    stem = str(PurePosixPath(path).with_suffix(""))
    safe = UNSAFE.sub("-", stem)
    if not is_file_name(safe):
        safe = "video"
    if safe != stem or is_shared:
        safe = f"{safe}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    start, end = span
    if start is None and end is None:
        return safe
    if is_shared:
        return f"{safe}@{start or 0.0!r}-{'end' if end is None else repr(end)}"
    return f"{safe}@{start or 0:g}-{'end' if end is None else format(end, 'g')}"


def unique_ids(parts: Collection[tuple[str, Span]]) -> dict[tuple[str, Span], str]:
    """The id of each part of a file. Two files with one stem get two ids: the one with the most usual ending keeps it.

    Args:
        parts: Paths below the folder of videos, or URIs, and the parts.
    """
    rank = {path: number for number, path in enumerate(files.usual_first({path for path, _ in parts}))}
    ids: dict[tuple[str, Span], str] = {}
    taken: set[str] = set()
    for path, span in sorted(parts, key=lambda part: rank[part[0]]):
        name = video_id(storage.plain(path), span)
        if name in taken:
            name = video_id(storage.plain(path), span, is_shared=True)
        taken.add(name)
        ids[path, span] = name
    return ids


def _without_captions(task: str, folder: str) -> Manifest:
    place = storage.join(folder, files.VIDEO_FOLDER)
    paths = [found.path for found in listing.walk(place) if found.is_text and not found.is_hidden]
    ids = unique_ids([(path, WHOLE) for path in paths if files.is_video(path)])
    videos = [Video(name, storage.join(place, path), "test", ()) for (path, _), name in ids.items()]
    others = [listing.shown(found.path) for found in listing.names(folder)]
    if not videos:
        raise DataError(
            "neither a table nor videos",
            where=folder,
            found=first_few(others) or "no file",
            expected=f"{' or '.join(TABLES)}, or video files in {files.VIDEO_FOLDER}",
            cure=f"put or link the videos into {place}" if any(map(files.is_video, others)) else None,
        )
    protocol = Protocol("table", "videos alone", NO_CAPTIONS, "none")
    videos.sort(key=lambda video: video.uri)
    return Manifest(task, protocol, tuple(videos), tuple(_other_tables(folder, None)))


def _other_tables(folder: str, where: str | None) -> list[str]:
    """What to say about files that look like a table of captions and are not read."""
    used = "no table" if where is None else storage.split(where)[1]
    names = [listing.shown(found.path) for found in listing.names(folder)]
    others = [name for name in names if name.lower().startswith("captions.") and name != used]
    return [f"{used} is read, and not {first_few(others)} (tables are {', '.join(TABLES)})"] if others else []


def _texts(rows: Iterable[Row]) -> tuple[dict[tuple[str, Span], tuple[str, ...]], list[str]]:
    """The captions of each part of a file, without repetitions, and what to say about those."""
    texts: dict[tuple[str, Span], dict[str, None]] = {}
    repeated = []
    for row in rows:
        captions = texts.setdefault((row.path, row.span), {})
        if row.caption in captions:
            repeated.append(row.place)
        captions[row.caption] = None
    notes = [f"rows that repeat a caption of their video count once: {first_few(repeated)}"] if repeated else []
    return {part: tuple(captions) for part, captions in texts.items()}, notes


def _given_splits(where: str, rows: Iterable[Row]) -> tuple[dict[str, str], str]:
    """The split of each file in the column, and how validation is chosen."""
    splits: dict[str, str] = {}
    for row in rows:
        if splits.setdefault(row.path, row.split) != row.split:
            raise DataError(
                "file is in two splits", where=row.place, found=f"{row.path} in {row.split}",
                expected=splits[row.path], cure="give all rows of a file the same split",
            )  # fmt: skip
    if empty := [name for name in SPLITS if name not in splits.values()]:
        raise DataError(
            "the column split leaves a split without videos",
            where=where,
            found=", ".join(empty),
            expected="at least one video in each of train, val, test",
            cure="name each of them in the column, or remove the column: then the files' names decide"
            if len(splits) >= len(SPLITS)
            else TOO_FEW,
        )
    return splits, "column split"


TOO_FEW = "add videos, or rename the table: without one, the videos are searched and nothing is trained"


def _hashed_splits(where: str, rows: Iterable[Row], shares: tuple[float, float]) -> tuple[dict[str, str], str]:
    """The split of each file by the hash of its name, no split empty, and how validation is chosen."""
    paths = sorted({row.path for row in rows}, key=lambda path: _place(storage.plain(path)))
    if len(paths) < len(SPLITS):
        raise DataError(
            "too few files to train, validate and test",
            where=where,
            found=len(paths),
            expected=f"at least {len(SPLITS)}",
            cure=TOO_FEW,
        )
    splits = {path: split_of(storage.plain(path), *shares) for path in paths}
    hashed, validation = dict(splits), "{:g} validate, {:g} tested, by SHA-256 of the file".format(*shares)
    for name, order in (("test", paths), ("val", paths), ("train", paths[::-1])):
        counts = Counter(splits.values())
        if not counts[name]:
            splits[next(path for path in order if counts[splits[path]] > 1)] = name
    return splits, validation if splits == hashed else f"{validation}, at least one file each"


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
