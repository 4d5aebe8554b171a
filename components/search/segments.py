"""Segments of an index: rows that were added together, in files that never change and are memory-mapped.

A segment is a folder: ``vectors.npy`` (float32[n, D]), ``rows.arrow`` (what is known of each row), ``thumbnails.bin``
(the JPEGs, one after the other) and, if frames' vectors are kept, ``frame_vectors.npy`` and ``frame_times.npy``. The
folder's name is a hash of the content. Equal rows give equal bytes.
"""

from __future__ import annotations

import errno
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.errors import DataError, one_line
from components.provenance import sha256_file
from components.search.card import FileCard, SegmentCard

VECTORS, ROWS, THUMBNAILS = "vectors.npy", "rows.arrow", "thumbnails.bin"
FRAME_VECTORS, FRAME_TIMES = "frame_vectors.npy", "frame_times.npy"

# Columns that every index has. One column per fact of a person's table follows.
SHOWN = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("start_seconds", pa.float64(), nullable=False),
        pa.field("end_seconds", pa.float64(), nullable=False),
        pa.field("window_of", pa.string()),
        pa.field("split", pa.string(), nullable=False),
    ]
)

# Columns for the index itself. No fact may begin so.
PREFIX = "reeltune."
CONTENT, PLACE, META = f"{PREFIX}content", f"{PREFIX}place", f"{PREFIX}meta"
THUMBNAIL, FRAMES = f"{PREFIX}thumbnail", f"{PREFIX}frames"
HIDDEN = pa.schema(
    [
        pa.field(CONTENT, pa.binary(16), nullable=False),  # hash of the frames and the span
        pa.field(PLACE, pa.binary(16), nullable=False),  # hash of the shard, and the row in it
        pa.field(META, pa.binary(16), nullable=False),  # hash of what the manifest says
        pa.field(THUMBNAIL, pa.int32(), nullable=False),  # bytes of the JPEG
        pa.field(FRAMES, pa.int32(), nullable=False),  # frames whose vectors are kept
    ]
)

# Files up to this size are compared with their hash when they are opened, larger ones by their length. The index stage
# compares the hashes of all.
HASHED_BYTES = 4 << 20

# More than the header of any array here.
HEADER_BYTES = 4096


@dataclass(frozen=True, eq=False)
class Segment:
    """An open segment. It can be read to the end even if its files are deleted meanwhile. It keeps no file open.

    Attributes:
        card: Name, rows and files.
        vectors: float32[n, D], memory-mapped.
        table: The columns of :data:`SHOWN`, facts, and those of :data:`HIDDEN`, memory-mapped.
        frame_vectors: float32[sum of frames, D], memory-mapped. None if they are not kept.
        frame_times: float64[sum of frames], in seconds from the first frame of the file.
    """

    card: SegmentCard
    vectors: NDArray[np.float32]
    table: pa.Table
    frame_vectors: NDArray[np.float32] | None
    frame_times: NDArray[np.float64] | None
    _thumbnails: pa.Buffer
    _starts: dict[str, NDArray[np.int64]]

    def thumbnail(self, row: int) -> bytes:
        """The JPEG of a row."""
        start, stop = self._span(THUMBNAIL, row)
        jpeg: bytes = self._thumbnails.slice(start, stop - start).to_pybytes()
        return jpeg

    def frames(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float32]] | None:
        """Times ``float64[T]`` in seconds and vectors ``float32[T, D]`` of a row's frames, if they are kept."""
        if self.frame_vectors is None or self.frame_times is None:
            return None
        start, stop = self._span(FRAMES, row)
        return self.frame_times[start:stop], self.frame_vectors[start:stop]

    def _span(self, column: str, row: int) -> tuple[int, int]:
        # Only a search's hits need them, so they are computed when the first one is asked for.
        if column not in self._starts:
            sizes = self.table[column].to_numpy()
            self._starts[column] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        starts = self._starts[column]
        return int(starts[row]), int(starts[row + 1])


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of an open segment that are copied to a new one.

    Attributes:
        segment: The segment.
        rows: int64[n], ascending. None means all.
        facts: What the manifest says of the n rows now: the columns of :data:`SHOWN`, facts, and :data:`META`. None
            keeps what the segment says.
    """

    segment: Segment
    rows: NDArray[np.int64] | None = None
    facts: pa.Table | None = None


def open_segment(folder: Path, card: SegmentCard, cure: str, *, whole: bool = False) -> Segment:
    """Opens a segment. Nothing but the size of its files is read, and the content of small ones.

    Args:
        folder: The segment's folder.
        card: What the version of the index says about it.
        cure: What to do about a fault.
        whole: Whether to compare the hashes of large files too.

    Raises:
        DataError: A file is missing, damaged or cannot be read.
    """
    for name, file in card.files.items():
        _check(folder / name, file, cure, whole)
    try:
        vectors = _array(folder / VECTORS)
        table = pa.ipc.open_file(_mapped(folder / ROWS)).read_all()
        frames = FRAME_VECTORS in card.files
        frame_vectors = _array(folder / FRAME_VECTORS) if frames else None
        frame_times = _array(folder / FRAME_TIMES) if frames else None
        thumbnails = _mapped(folder / THUMBNAILS)
    except FileNotFoundError:
        raise DataError("missing", where=folder, cure=cure) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # not a fault of the file
        raise DataError(f"damaged: {one_line(error)}", where=folder, cure=cure) from None
    if not len(vectors) == table.num_rows == card.rows or vectors.dtype != np.float32:
        raise DataError("damaged", where=folder, found=f"{len(vectors)} rows", expected=f"{card.rows} rows", cure=cure)
    return Segment(card, vectors, table, frame_vectors, frame_times, thumbnails, {})


def _check(path: Path, file: FileCard, cure: str, whole: bool) -> None:
    try:
        size = path.stat().st_size
        if size == file.bytes and (whole or size <= HASHED_BYTES) and sha256_file(path) != file.sha256:
            raise DataError("damaged: its content is not what was written", where=path, cure=cure)
    except FileNotFoundError:
        raise DataError("missing", where=path, cure=cure) from None
    if size != file.bytes:
        raise DataError("damaged", where=path, found=f"{size} bytes", expected=f"{file.bytes} bytes", cure=cure)


def _mapped(path: Path) -> pa.Buffer:
    """The content of a file, memory-mapped. The file is not left open, as Python's and NumPy's maps leave theirs."""
    with pa.memory_map(str(path)) as source:
        return source.read_buffer()


def _array(path: Path) -> NDArray[Any]:
    """The array of a ``.npy`` file, memory-mapped.

    Raises:
        ValueError: It is not such a file, or it is cut.
    """
    content = _mapped(path)
    header = io.BytesIO(content.slice(0, min(content.size, HEADER_BYTES)).to_pybytes())
    np.lib.format.read_magic(header)
    shape, _, kind = np.lib.format.read_array_header_1_0(header)
    return np.frombuffer(content, kind, math.prod(shape), header.tell()).reshape(shape)


def join_tables(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables one after the other. A column that one of them lacks is null there, and whole numbers become fractions.

    Raises:
        DataError: A column has text in one table and numbers in another.
    """
    try:
        return pa.concat_tables([_without_empty(table) for table in tables], promote_options="permissive")
    except pa.ArrowException as error:
        reason = one_line(error)
        raise DataError(
            f"a column has values of different kinds: {reason}",
            where="facts of the videos",
            cure="write one kind into the column of the table, and run ingest again",
        ) from None


def _without_empty(table: pa.Table) -> pa.Table:
    """The table without facts that no row has: their type is that of an earlier table, and may have changed."""
    known = {*SHOWN.names, *HIDDEN.names}
    empty = [name for name in table.column_names if name not in known and table[name].null_count == table.num_rows]
    return table.drop_columns(empty)


def runs(rows: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """First and last of each run of neighbours in ascending rows."""
    if not len(rows):
        return ()
    breaks = np.flatnonzero(np.diff(rows) != 1)
    firsts, lasts = np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [len(rows) - 1]])
    return tuple((int(rows[first]), int(rows[last])) for first, last in zip(firsts, lasts, strict=True))


def rows_of_runs(found: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """The inverse of :func:`runs`."""
    parts = [np.arange(first, last + 1, dtype=np.int64) for first, last in found]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def facts_of(rows: Sequence[Mapping[str, object]]) -> dict[str, pa.Array]:
    """One column per fact that a row has.

    Raises:
        DataError: The name of a fact is taken, or a fact is a text in one row and a number in another.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    taken = [name for name in names if name in SHOWN.names or name.startswith(PREFIX)]
    if taken:
        raise DataError("the name of a column is taken", where="facts of the videos", found=taken[0])
    return {name: _column(name, [row.get(name) for row in rows]) for name in names}


def _column(name: str, values: Sequence[object]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]  # type: ignore[arg-type]
    elif len(kinds) > 1:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError("a column has values of different kinds", where=f"fact {name}", found=found)
    return pa.array(values)
