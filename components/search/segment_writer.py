"""Writes the segments of an index, which :mod:`components.search.segments` reads."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.provenance import sha256_file
from components.search.card import FileCard, SegmentCard
from components.search.segments import (
    CONTENT,
    FRAME_TIMES,
    FRAME_VECTORS,
    FRAMES,
    HIDDEN,
    PLACE,
    ROWS,
    THUMBNAIL,
    THUMBNAILS,
    VECTORS,
    Part,
    Segment,
    join_tables,
)

COPIED_ROWS = 4096


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
