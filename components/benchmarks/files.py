"""Reading the parts that annotation formats share: CSV, JSON, video folders, options, a validation split."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from components import storage
from components.errors import ConfigError, DataError
from components.manifest import first_few, is_file_name

VIDEO_FOLDER = "videos"
VIDEO_ENDINGS = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts", ".flv")
SUBSETS = "subsets.json"


def read_csv(where: str, columns: Sequence[str], optional: Sequence[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """Line number and fields of a CSV file with a header; a byte order mark and either line end are accepted.

    Args:
        where: path or URI.
        columns: every row has them, not empty.
        optional: kept where they are; absent ones are empty.

    Raises:
        DataError: no such file, not UTF-8, a missing column, a row with an empty or missing field.
    """
    # The whole text goes to the parser, since a quoted caption may hold a line end.
    reader = csv.DictReader(io.StringIO(storage.read_text(where), newline=""), strict=True)
    try:
        header = reader.fieldnames or []
        if missing := [name for name in columns if name not in header]:
            raise DataError("column is missing", where=where, found=list(header), expected=", ".join(missing))
        rows = []
        for row in reader:
            if empty := [name for name in columns if not (row[name] or "").strip()]:
                raise DataError("field is empty", where=f"{where}:{reader.line_num}", expected=", ".join(empty))
            kept = {name: (row.get(name) or "").strip() for name in (*columns, *optional)}
            rows.append((reader.line_num, kept))
    except csv.Error as error:
        raise DataError(f"not CSV: {error}", where=f"{where}:{reader.line_num}") from None
    if not rows:
        raise DataError("no rows", where=where, expected="at least one video")
    return rows


def read_lines(where: str) -> list[tuple[int, str]]:
    """Line number and text of the lines that are not blank, stripped of blanks; either line end is accepted.

    Raises:
        DataError: no such file, not UTF-8, or nothing in it.
    """
    # Not splitlines(): a caption may hold one of the rarer line ends of Unicode.
    lines = [(number, line.strip()) for number, line in enumerate(storage.read_text(where).split("\n"), 1)]
    if kept := [(number, line) for number, line in lines if line]:
        return kept
    raise DataError("no rows", where=where, expected="at least one video")


def checked_ids(where: str, rows: Iterable[tuple[int, str]]) -> list[str]:
    """The ids of numbered lines.

    Raises:
        DataError: an id that stands twice, or that is no file name and so could lead out of the folder.
    """
    first: dict[str, int] = {}
    for number, name in rows:
        check_id(f"{where}:{number}", name)
        if name in first:
            raise DataError(
                "video id stands twice",
                where=f"{where}:{number}",
                found=name,
                expected="one line per video",
                cure=f"remove this line or line {first[name]}",
            )
        first[name] = number
    return list(first)


def check_id(where: str, name: str) -> None:
    """Refuses an id that could lead out of the folder.

    Raises:
        DataError: a path separator, ``..``, a line end or a blank at either end.
    """
    if not is_file_name(name):
        raise DataError(
            "video id is not usable as a file name",
            where=where,
            found=name,
            expected="a name without /, \\, .. and line ends",
            cure="give the id alone; its file is looked for in " + VIDEO_FOLDER,
        )


def read_json(where: str, kind: type) -> Any:
    """Content of a JSON file whose top level is a ``kind`` (dict or list).

    Raises:
        DataError: no such file, not UTF-8, not JSON, or another top level.
    """
    try:
        content = json.loads(storage.read_text(where))
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} in line {error.lineno}", where=where) from None
    if not isinstance(content, kind):
        raise DataError("unexpected JSON", where=where, found=type(content).__name__, expected=kind.__name__)
    return content


def check_options(task: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuses options that the reader does not have.

    Raises:
        ConfigError: an unknown option.
    """
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(
            "unknown option of this benchmark",
            where=f"params.yaml tasks.{task}.options",
            found=", ".join(unknown),
            expected="one of " + ", ".join(sorted(known)) if known else "none",
        )


def val_share(task: str, options: Mapping[str, Any], default: float = 0.05) -> float:
    """The option ``val_share``: the part of the training videos that is held out for validation.

    Raises:
        ConfigError: not a number between 0 and 1.
    """
    return share(task, options, "val_share", default)


def share(task: str, options: Mapping[str, Any], name: str, default: float) -> float:
    """The option ``name``, a part of the videos.

    Raises:
        ConfigError: not a number between 0 and 1.
    """
    found = options.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < 1:
        raise ConfigError(
            "not a share",
            where=f"params.yaml tasks.{task}.options.{name}",
            found=found,
            expected="a number between 0 and 1",
        )
    return float(found)


def held_out(ids: Iterable[str], share: float) -> set[str]:
    """A fixed part of ``ids``, at least one: those whose SHA-256 is lowest, whatever their order."""
    ranked = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return set(ranked[: max(1, round(share * len(ranked)))])


def video_files(folder: str, below: str = "") -> dict[str, str]:
    """Stem to uri of the video files in ``<folder>/videos``, or in its folder ``below``; empty if it is not there."""
    videos = storage.join(folder, VIDEO_FOLDER, *([below] if below else []))
    found: dict[str, str] = {}
    names = storage.list_files(videos)
    # From the least to the most usual ending, so that of several files of one stem the usual one is taken.
    for ending in reversed(VIDEO_ENDINGS):
        for name in names:
            if PurePosixPath(name).suffix.lower() == ending:
                found[PurePosixPath(name).stem] = storage.join(videos, name)
    return found


def uri_of(folder: str, found: Mapping[str, str], *stems: str, ending: str = VIDEO_ENDINGS[0]) -> str:
    """The file of a video under one of its possible names; where there is none, the path at which it is missed."""
    for stem in stems:
        if stem in found:
            return found[stem]
    return storage.join(folder, VIDEO_FOLDER, stems[0] + ending)


def read_subsets(folder: str, ids: Collection[str], prefix: str = "") -> dict[str, tuple[str, ...]]:
    """Subsets of each video, from the optional ``subsets.json``: ``{"subset": ["video id", ...]}``.

    Args:
        folder: of the collection.
        ids: videos of the manifest.
        prefix: of the benchmark's own keys, which ``ids`` lack.

    Raises:
        DataError: not of that form, or a video that is not in the manifest.
    """
    where = storage.join(folder, SUBSETS)
    if not storage.exists(where):
        return {}
    subsets: dict[str, list[str]] = {}
    for name, members in read_json(where, dict).items():
        if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
            raise DataError("subset is not a list of video ids", where=where, found=name)
        plain = [member if member in ids else member.removeprefix(prefix) for member in members]
        if unknown := [member for member in plain if member not in ids]:
            raise DataError(f"subset {name!r} names videos that no split has", where=where, found=first_few(unknown))
        for member in dict.fromkeys(plain):
            subsets.setdefault(member, []).append(name)
    return {video_id: tuple(names) for video_id, names in subsets.items()}
