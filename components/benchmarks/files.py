"""Reads what the annotation formats share: CSV, JSON, video folders, options and a validation split."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from components import storage
from components.benchmarks import listing
from components.benchmarks.parse import parse_json
from components.errors import ConfigError, DataError
from components.manifest import first_few
from components.video import is_file_name

VIDEO_FOLDER = "videos"
# The most usual first: it is taken if a benchmark has several files of one video.
VIDEO_ENDINGS = (
    ".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts", ".flv", ".m2ts", ".ts",
    ".ogv", ".ogg", ".ogm", ".vob", ".asf", ".3g2", ".f4v", ".qt", ".divx", ".gif", ".mpe", ".m1v", ".m2v", ".m2t",
    ".tod", ".mod", ".mxf", ".dv", ".rm", ".rmvb", ".y4m", ".nut", ".h264", ".h265", ".hevc", ".ivf", ".mjpeg", ".mk3d",
)  # fmt: skip
SUBSETS = "subsets.json"


def read_csv(where: str, columns: Sequence[str], optional: Sequence[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """Reads a CSV file with a header into line numbers and fields. A byte order mark and CRLF are accepted.

    Args:
        where: The path or URI of the file.
        columns: The columns that every row must have, not empty.
        optional: Columns that are empty in every row if they do not exist.

    Returns:
        The last line of each row, and its fields by column. Columns that were not asked for are among them.

    Raises:
        DataError: The file does not exist or is not UTF-8, a column is missing or occurs twice, a field is empty or
            missing, a row has more fields than the header, or the header occurs twice.
    """
    # The parser gets the whole text, since a quoted caption may contain a line end.
    reader = csv.reader(io.StringIO(storage.read_text(where), newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    long: list[tuple[int, int]] = []
    try:
        header = [name.strip() for name in next((row for row in reader if row), [])]
        _check_header(where, header, columns, optional)
        for fields in reader:
            fields = [field.strip() for field in fields]
            if not any(fields):
                continue  # a blank line, or empty cells that a spreadsheet left
            if fields == header:
                raise DataError("the header again", where=f"{where}:{reader.line_num}", cure="remove this line")
            row = dict.fromkeys(optional, "") | dict.fromkeys(header, "")
            row |= dict(zip(header, fields, strict=False))
            if empty := [name for name in columns if not row[name]]:
                if long:
                    break  # that fault comes first
                raise DataError("field is empty", where=f"{where}:{reader.line_num}", expected=", ".join(empty))
            if len(fields) > len(header):
                long.append((reader.line_num, len(fields)))
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise DataError(f"not CSV: {error}", where=f"{where}:{reader.line_num}") from None
    if long:
        raise _too_many_fields(where, long, header)
    if not rows:
        raise DataError("no rows", where=where, expected="at least one video")
    return rows


def _check_header(where: str, header: list[str], columns: Sequence[str], optional: Sequence[str]) -> None:
    if missing := [name for name in columns if name not in header]:
        raise DataError("column is missing", where=where, found=header, expected=", ".join(missing))
    if twice := [name for name in dict.fromkeys(header) if name and header.count(name) > 1]:
        raise DataError("column occurs twice", where=where, found=", ".join(twice), expected="each name once")
    check_spelling(where, header, optional)


def check_spelling(where: str, header: Iterable[str], optional: Iterable[str]) -> None:
    """Refuses a column that is an optional one but for upper and lower case: it would not be read.

    Raises:
        DataError: There is such a column.
    """
    known = set(optional)
    if wrong := [name for name in header if name not in known and name.strip().lower() in known]:
        expected = ", ".join(name.strip().lower() for name in wrong)
        raise DataError("column is spelled differently", where=where, found=", ".join(wrong), expected=expected)


def _too_many_fields(where: str, long: list[tuple[int, int]], header: list[str]) -> DataError:
    line, count = long[0]
    more = f" (and {len(long) - 1} more rows)" if len(long) > 1 else ""
    return DataError(
        f"row has more fields than the header{more}",
        where=f"{where}:{line}",
        found=f"{count} fields, the header has {len(header)}",
        expected="a comma only between fields",
        cure='put a text with commas into double quotes: "a dog, two cats and a bird"',
    )


def read_lines(where: str) -> list[tuple[int, str]]:
    """Reads the lines that are not blank, with their numbers and without surrounding blanks. CRLF is accepted.

    Raises:
        DataError: The file does not exist, is not UTF-8 or has no content.
    """
    # Not splitlines(), since a caption may contain one of the rarer line ends of Unicode.
    lines = [(number, line.strip()) for number, line in enumerate(storage.read_text(where).split("\n"), 1)]
    if kept := [(number, line) for number, line in lines if line]:
        return kept
    raise DataError("no rows", where=where, expected="at least one video")


def checked_ids(where: str, rows: Iterable[tuple[int, str]]) -> list[str]:
    """Checks the ids of numbered lines and returns them.

    Raises:
        DataError: An id occurs twice, or it is not a file name and so could lead out of the folder.
    """
    first: dict[str, int] = {}
    for number, name in rows:
        check_id(f"{where}:{number}", name)
        if name in first:
            raise DataError(
                "video id occurs twice",
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
        DataError: The id has a path separator, ``..``, a line end, or a blank at either end.
    """
    if not is_file_name(name):
        raise DataError(
            "video id is not usable as a file name",
            where=where,
            found=name,
            expected="a name without /, \\, .. and line ends",
            cure=f"give the id only: its file is searched for in {VIDEO_FOLDER}",
        )


def read_json(where: str, kind: type) -> Any:
    """Reads a JSON file with a ``kind`` (dict or list) at the top level.

    Raises:
        DataError: The file does not exist, is not UTF-8 or not sound JSON (:func:`parse_json`), or has another top
            level.
    """
    content = parse_json(storage.read_text(where), where)
    if not isinstance(content, kind):
        raise DataError("unexpected JSON", where=where, found=type(content).__name__, expected=kind.__name__)
    return content


def check_options(task: str, given: Mapping[str, object], known: Collection[str]) -> None:
    """Refuses options that the reader does not have.

    Raises:
        ConfigError: An option is unknown.
    """
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(
            "unknown option of this benchmark",
            where=f"params.yaml tasks.{task}.options",
            found=", ".join(unknown),
            expected="one of " + ", ".join(sorted(known)) if known else "no options",
        )


def val_share(task: str, options: Mapping[str, object], default: float = 0.05) -> float:
    """The option ``val_share``: the fraction of the training videos that is held out for validation.

    Raises:
        ConfigError: The option is not a number between 0 and 1.
    """
    return share(task, options, "val_share", default)


def share(task: str, options: Mapping[str, object], name: str, default: float) -> float:
    """The option ``name``, a fraction of the videos.

    Raises:
        ConfigError: The option is not a number between 0 and 1.
    """
    found = options.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < 1:
        raise ConfigError(
            "not a fraction",
            where=f"params.yaml tasks.{task}.options.{name}",
            found=found,
            expected="a number between 0 and 1",
        )
    return float(found)


def held_out(ids: Iterable[str], share: float) -> set[str]:
    """Picks a fixed fraction of ``ids``, at least one: those with the lowest SHA-256. Their order does not matter."""
    ranked = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return set(ranked[: max(1, round(share * len(ranked)))])


def is_video(name: str) -> bool:
    """Whether the ending of a file's name is one of a video."""
    return PurePosixPath(name).suffix.lower() in VIDEO_ENDINGS


def usual_first(paths: Iterable[str]) -> list[str]:
    """Sorts files by their endings, the most usual first, and by name from the last to the first."""
    rank = {ending: number for number, ending in enumerate(VIDEO_ENDINGS)}
    names = sorted(paths, reverse=True)
    return sorted(names, key=lambda name: rank.get(PurePosixPath(name).suffix.lower(), len(rank)))


def video_files(folder: str, below: str = "") -> dict[str, str]:
    """Finds the video files in ``<folder>/videos``, or in its folder ``below``. Hidden files are none.

    Returns:
        The uri of each file by the stem of its name. Empty if there is no such folder.
    """
    videos = storage.join(folder, VIDEO_FOLDER, *([below] if below else []))
    names = [found.path for found in listing.names(videos) if found.is_text and not found.is_hidden]
    ranked = usual_first(name for name in names if is_video(name))
    return {PurePosixPath(name).stem: storage.join(videos, name) for name in reversed(ranked)}


def uri_of(folder: str, found: Mapping[str, str], *stems: str, ending: str = VIDEO_ENDINGS[0]) -> str:
    """The file of a video under one of its possible names. If there is none, the path where it was expected."""
    for stem in stems:
        if stem in found:
            return found[stem]
    return storage.join(folder, VIDEO_FOLDER, stems[0] + ending)


def part_of(
    folder: str, found: Mapping[str, str], name: str, whole: str, span: tuple[float, float]
) -> tuple[str, tuple[float | None, float | None]]:
    """The file of a part of a video, and the seconds that are read of it.

    Args:
        folder: The folder of the collection.
        found: The files by stem, from :func:`video_files`.
        name: The stem of a file that has the part alone.
        whole: The stem of a file that has the whole video.
        span: The part's start and end in the whole video, in seconds.
    """
    if name not in found and whole in found:
        return found[whole], span
    return uri_of(folder, found, name), (None, None)


def read_subsets(folder: str, ids: Collection[str], prefix: str = "") -> dict[str, tuple[str, ...]]:
    """Reads the optional ``subsets.json``: ``{"subset": ["video id", ...]}``.

    Args:
        folder: The folder of the collection.
        ids: The ids of the videos in the manifest.
        prefix: The prefix of the benchmark's keys. ``ids`` do not have it.

    Returns:
        The names of the subsets of each video that is in one.

    Raises:
        DataError: The file has another form, or names a video that is not in the manifest.
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


def present(uris: Iterable[str]) -> set[str]:
    """Those of ``uris`` that exist as files. Every folder is listed once."""
    wanted = set(uris)
    folders = {storage.split(uri)[0] for uri in wanted}
    return wanted & {
        storage.join(folder, found.path)
        for folder in folders
        for found in listing.names(folder)
        if found.is_text and found.is_there
    }
