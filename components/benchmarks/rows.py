"""The rows of a user's table (CSV, JSON lines or Parquet), with every field checked."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import SupportsFloat

import pyarrow as pa
import pyarrow.parquet as pq

from components import storage
from components.benchmarks import files
from components.benchmarks.parse import not_unicode, parse_json, text_of
from components.errors import DataError, one_line
from components.manifest import SPLITS
from components.video import is_unicode

NEEDED = ("video", "caption")
OPTIONAL = ("split", "start", "end")

# The value of a column whose kind cannot be a fact.
NOT_READ: tuple[()] = ()

Span = tuple[float | None, float | None]  # start and end in seconds, None for the start and the end of the file


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        place: The file and the line or row, for messages.
        path: The path below the folder of videos, or the URI with the name quoted as in a listing.
        span: The part of the file.
        caption: The text.
        split: The split, or empty if the table has no such column.
        further: The values of all other columns, as the table has them.
    """

    place: str
    path: str
    span: Span
    caption: str
    split: str
    further: Mapping[str, object]


def read_rows(where: str) -> list[Row]:
    """Reads a table of any kind.

    Raises:
        DataError: The table is damaged or lacks a column. Or a row has more fields than the header, no caption, an
            unknown split, a segment that ends before it starts, or a path that leads out of the folder.
    """
    raw = list(raw_rows(where))
    # The split of every row is given, or that of none.
    given = any(fields.get("split") not in (None, "") for _, fields in raw)
    return [_row(place, fields, given) for place, fields in raw]


def _row(place: str, fields: Mapping[str, object], given: bool) -> Row:
    further = {name: value for name, value in fields.items() if name and name not in (*NEEDED, *OPTIONAL)}
    fields = {name: "" if fields.get(name) is None else fields[name] for name in (*NEEDED, *OPTIONAL)}
    for value in fields.values():
        if isinstance(value, str) and not is_unicode(value):
            raise not_unicode(place, value)
    span = _seconds(place, fields, "start"), _seconds(place, fields, "end")
    _check_span(place, span)
    split = _given_split(place, fields["split"]) if given else ""
    return Row(place, _path(place, fields["video"]), span, text_of(place, fields["caption"]), split, further)


def raw_rows(
    where: str, needed: Sequence[str] = NEEDED, optional: Sequence[str] = OPTIONAL
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The place of each row and its fields, of which only the names are checked.

    Args:
        where: The path or URI of a ``.csv``, ``.jsonl`` or else Parquet file.
        needed: The columns that the table must have, ``caption`` among them.
        optional: Columns that it may have.

    Raises:
        DataError: The table is damaged or lacks a column, or a row has more fields than the header.
    """
    kind = PurePosixPath(where).suffix
    if kind == ".csv":
        for line, fields in files.read_csv(where, needed, optional):
            _check_quotes(f"{where}:{line}", fields["caption"])
            yield f"{where}:{line}", fields
        return
    for place, content in _json_lines(where, needed) if kind == ".jsonl" else _parquet_rows(where, needed, optional):
        _check_names(place, content, needed, optional)
        yield place, content


def _check_quotes(place: str, caption: str) -> None:
    """Refuses a caption in which rows seem to be: a quotation mark that is not closed takes up those that follow."""
    for line in caption.splitlines()[1:]:
        name, comma, _ = line.partition(",")
        if comma and files.is_video(name.strip()):
            raise DataError(
                "a caption holds what looks like a row",
                where=place,
                found=line,
                expected="a quotation mark at both ends of a text",
                cure="close the quotation mark above this line",
            )


def _check_names(place: str, names: Iterable[str], needed: Sequence[str], optional: Sequence[str]) -> None:
    names = list(names)
    if missing := [name for name in needed if name not in names]:
        raise DataError("column is missing", where=place, found=sorted(names), expected=", ".join(missing))
    files.check_spelling(place, names, optional)


def _json_lines(where: str, needed: Sequence[str]) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, line in files.read_lines(where):
        content = parse_json(line, f"{where}:{number}")
        if not isinstance(content, dict):
            keys = ", ".join(map(repr, needed))
            raise DataError("not an object", where=f"{where}:{number}", found=content, expected=f"{{{keys}}}")
        yield f"{where}:{number}", content


def _parquet_rows(
    where: str, needed: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, object]]]:
    content = storage.read_bytes(where)
    try:
        # Checksums and `validate` find damage that would otherwise be read as other text, or break a later step.
        file = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
        _check_size(where, file.metadata, len(content))
        names = file.schema_arrow.names
        plain = [name for name in names if names.count(name) == 1 and _is_plain(file.schema_arrow.field(name).type)]
        table = file.read(columns=[name for name in names if name in (*needed, *optional, *plain)])
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError("not Parquet, or damaged", where=where, cure=one_line(error, 300)) from None
    if not table.num_rows:
        raise DataError("no rows", where=where, expected="at least one video")
    _check_names(where, names, needed, optional)
    others = dict.fromkeys((name for name in names if name not in table.column_names), NOT_READ)
    yield from ((f"{where} row {number}", {**row, **others}) for number, row in enumerate(table.to_pylist(), 1))


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a column holds numbers, texts or truth values. Others may be large, or have no value in Python."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_large_string,
    )
    return any(test(kind) for test in tests)


# What a table of captions is far below: rows of less than a byte each, and text that was compressed so much.
SMALL_ROWS, SMALL_BYTES = 1_000_000, 1 << 26
MOST_EXPANSION = 1000


def _check_size(where: str, metadata: pq.FileMetaData, length: int) -> None:
    """Refuses a file that states more content than a file of its length has, before memory is taken for it.

    Raises:
        DataError: The number of rows or of bytes is out of proportion.
    """
    stated = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    rows = metadata.num_rows
    if rows > max(SMALL_ROWS, length) or stated > max(SMALL_BYTES, MOST_EXPANSION * length):
        raise DataError(
            "not Parquet, or damaged",
            where=where,
            found=f"{rows:,} rows and {stated:,} bytes in a file of {length:,} bytes",
            expected="a table of captions",
        )


def _path(place: str, value: object) -> str:
    """The path of a row below the folder of videos, or its URI with the name quoted as in a listing."""
    if isinstance(value, str) and storage.is_uri(uri := value.strip()):
        return storage.join(*storage.split(uri))
    path = PurePosixPath(value.strip()) if isinstance(value, str) else PurePosixPath()
    if (
        str(path) in (".", files.VIDEO_FOLDER)
        or path.is_absolute()
        or ".." in path.parts
        or set(str(path)) & set("\\\0\n\r")
    ):
        raise DataError(
            "not a path below the collection's folder",
            where=place,
            found=value,
            expected="a relative path without .., or a URI",
            cure=f"put or link the file into {files.VIDEO_FOLDER}",
        )
    return str(path.relative_to(files.VIDEO_FOLDER) if path.parts[0] == files.VIDEO_FOLDER else path)


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
        number = isinstance(value, str | SupportsFloat) and not isinstance(value, bool)
        seconds = float(value) if number else math.nan  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise DataError(f"{name} is not a time", where=place, found=value, expected="seconds, 0 or more")
    return seconds


def _check_span(place: str, span: Span) -> None:
    start, end = span
    if end is not None and end <= (start or 0.0):
        raise DataError("segment ends before it starts", where=place, found=span, expected="a start below the end")
