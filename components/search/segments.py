"""Segments of an index: rows that were added together, in files that never change and are memory-mapped.

A segment is a folder: ``vectors.npy`` (float32[n, D]), ``rows.arrow`` (what is known of each row), ``thumbnails.bin``
(the JPEGs, one after the other) and, if frames' vectors are kept, ``frame_vectors.npy`` and ``frame_times.npy``. The
folder's name is a hash of the content. Equal rows give equal bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.errors import DataError
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
COPIED_ROWS = 4096

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
        raise DataError(f"damaged: {' '.join(str(error).split())[:200]}", where=folder, cure=cure) from None
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


def write_rows(
    folder: Path,
    vectors: NDArray[np.float32],
    table: pa.Table,
    thumbnails: Sequence[bytes],
    frames: Sequence[tuple[NDArray[np.float64], NDArray[np.float32]]] | None = None,
) -> SegmentCard:
    """Writes rows as the segment in ``folder``, which must not exist. It appears whole or not at all.

    Args:
        folder: Where to write. The name is free: :func:`write_parts` gives a segment its final name.
        vectors: float32[n, D].
        table: n rows with the columns of :data:`SHOWN`, facts, and :data:`HIDDEN` without the two sizes.
        thumbnails: n JPEGs.
        frames: Times and vectors of each row's frames, None if they are not kept.

    Raises:
        OSError: The disk does not take it.
    """
    counts = [0] * len(vectors) if frames is None else [len(times) for times, _ in frames]
    table = table.append_column(HIDDEN.field(THUMBNAIL), pa.array([len(jpeg) for jpeg in thumbnails], pa.int32()))
    table = table.append_column(HIDDEN.field(FRAMES), pa.array(counts, pa.int32()))
    with _Writer(folder, vectors.shape[1], len(vectors), None if frames is None else sum(counts)) as writer:
        writer.add(vectors, thumbnails, frames)
        writer.rows(table)
    return writer.card(folder.name)


def write_parts(parent: Path, parts: Sequence[Part]) -> SegmentCard:
    """Copies rows of open segments to one new segment under ``parent``, named by its content.

    Raises:
        OSError: The disk does not take it.
        DataError: A column has values of different kinds in two parts.
    """
    chosen = [np.arange(part.segment.card.rows) if part.rows is None else part.rows for part in parts]
    with_frames = all(part.segment.frame_vectors is not None for part in parts)
    tables = [_table_of(part, rows) for part, rows in zip(parts, chosen, strict=True)]
    table = join_tables(tables)
    frames = pc.sum(table[FRAMES]).as_py() if with_frames else None
    temporary = parent / f".new-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    dimension = parts[0].segment.vectors.shape[1]
    with _Writer(temporary, dimension, table.num_rows, frames) as writer:
        for part, rows in zip(parts, chosen, strict=True):
            for start in range(0, len(rows), COPIED_ROWS):
                _copy(writer, part.segment, rows[start : start + COPIED_ROWS], with_frames)
        writer.rows(table)
    card = writer.card("")
    content = sorted((name, file.sha256) for name, file in card.files.items())
    name = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
    if (parent / name).exists():  # left by a run that was killed, or damaged
        shutil.rmtree(parent / name)
    os.replace(temporary, parent / name)
    return SegmentCard(name, card.rows, card.files)


def join_tables(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables one after the other. A column that one of them lacks is null there, and whole numbers become fractions.

    Raises:
        DataError: A column has text in one table and numbers in another.
    """
    try:
        return pa.concat_tables([_without_empty(table) for table in tables], promote_options="permissive")
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:200]
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


def _table_of(part: Part, rows: NDArray[np.int64]) -> pa.Table:
    table = part.segment.table
    table = table if len(rows) == table.num_rows else table.take(pa.array(rows))
    if part.facts is None:
        return table
    replaced = part.facts
    for name in (CONTENT, PLACE, THUMBNAIL, FRAMES):
        if name in replaced.column_names:
            continue
        replaced = replaced.append_column(HIDDEN.field(name), table[name])
    return replaced


def _copy(writer: _Writer, segment: Segment, rows: NDArray[np.int64], with_frames: bool) -> None:
    frames = None
    if with_frames:
        frames = [found for row in rows if (found := segment.frames(int(row))) is not None]
    writer.add(np.asarray(segment.vectors[rows]), [segment.thumbnail(int(row)) for row in rows], frames)


class _Writer:
    """Writes the files of a segment piece by piece, and removes them if a piece fails."""

    def __init__(self, folder: Path, dimension: int, count: int, frames: int | None) -> None:
        self.folder = folder
        self._count, self._dimension, self._frames = count, dimension, frames
        self._streams: dict[str, BinaryIO] = {}

    def __enter__(self) -> _Writer:
        self.folder.mkdir(parents=True)
        try:
            self._open(VECTORS, "<f4", (self._count, self._dimension))
            self._open(THUMBNAILS)
            if self._frames is not None:
                self._open(FRAME_VECTORS, "<f4", (self._frames, self._dimension))
                self._open(FRAME_TIMES, "<f8", (self._frames,))
        except BaseException:
            self.__exit__(OSError)
            raise
        return self

    def _open(self, name: str, kind: str = "", shape: tuple[int, ...] = ()) -> None:
        stream = self._streams[name] = (self.folder / name).open("wb")
        if kind:
            header = {"descr": kind, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)

    def add(
        self,
        vectors: NDArray[np.float32],
        thumbnails: Sequence[bytes],
        frames: Sequence[tuple[NDArray[np.float64], NDArray[np.float32]]] | None,
    ) -> None:
        """Appends rows, without what the table says of them."""
        self._streams[VECTORS].write(np.ascontiguousarray(vectors, "<f4").data)
        self._streams[THUMBNAILS].write(b"".join(thumbnails))
        for times, features in frames or ():
            self._streams[FRAME_TIMES].write(np.ascontiguousarray(times, "<f8").data)
            self._streams[FRAME_VECTORS].write(np.ascontiguousarray(features, "<f4").data)

    def rows(self, table: pa.Table) -> None:
        """Writes the table of all rows."""
        plain = pa.Table.from_batches(table.combine_chunks().to_batches(), table.schema.remove_metadata())
        self._streams[ROWS] = stream = (self.folder / ROWS).open("wb")
        with pa.ipc.new_file(stream, plain.schema) as sink:
            sink.write_table(plain)

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            for stream in self._streams.values():
                if not stream.closed:
                    stream.flush()
                    os.fsync(stream.fileno())
        except OSError:
            kind = kind or OSError
            raise
        finally:
            for stream in self._streams.values():
                with contextlib.suppress(OSError):  # what the disk refuses was raised by the flush
                    stream.close()
            if kind is not None:
                shutil.rmtree(self.folder)

    def card(self, name: str) -> SegmentCard:
        """The segment's card, after the block."""
        paths = sorted(path for path in self.folder.iterdir())
        files = {path.name: FileCard(path.stat().st_size, sha256_file(path)) for path in paths}
        return SegmentCard(name, self._count, files)


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
