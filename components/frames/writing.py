"""Writes the Parquet files of a frame store. Equal rows give equal bytes."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components import storage
from components.frames import schema

# JPEG gains nothing from compression, dictionaries or statistics.
PARQUET = {"compression": "none", "use_dictionary": False, "write_statistics": False}


class ShardWriter:
    """Writes the rows of one shard, one row group at a time. Only one row group is in memory.

    Args:
        writer: The writer of the file.
        row_group_videos: The videos per row group.
    """

    def __init__(self, writer: pq.ParquetWriter, row_group_videos: int) -> None:
        self.rows = 0
        self._writer = writer
        self._row_group_videos = row_group_videos
        self._held: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends the row of a video, with the columns of :data:`components.frames.schema.FRAMES_SCHEMA`."""
        self._held.append(row)
        self.rows += 1
        if len(self._held) == self._row_group_videos:
            self.flush()

    def flush(self) -> None:
        """Writes the rows in memory as a row group."""
        if self._held:
            self._writer.write_table(pa.Table.from_pylist(self._held, schema=schema.FRAMES_SCHEMA))
            self._held = []


@contextlib.contextmanager
def shard_writer(path: Path, row_group_videos: int) -> Iterator[ShardWriter]:
    """Writes a shard, which appears whole at the end of the block. Equal rows give equal bytes."""
    with storage.atomic_file(path) as aside, pq.ParquetWriter(aside, schema.FRAMES_SCHEMA, **PARQUET) as parquet:
        writer = ShardWriter(parquet, row_group_videos)
        yield writer
        writer.flush()


@contextlib.contextmanager
def shard_hash(row_group_videos: int) -> Iterator[tuple[ShardWriter, Callable[[], str]]]:
    """Hashes a shard that is not kept. After the block, the second value gives the hash of its bytes."""
    sink = _Hashing()
    with pq.ParquetWriter(sink, schema.FRAMES_SCHEMA, **PARQUET) as parquet:
        writer = ShardWriter(parquet, row_group_videos)
        yield writer, sink.digest.hexdigest
        writer.flush()


class _Hashing(io.RawIOBase):
    """A file whose bytes are hashed and forgotten."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._length = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._length

    def write(self, content: Any) -> int:
        self.digest.update(content)
        self._length += len(content)
        return len(content)


def write_shard(path: Path, rows: Sequence[Mapping[str, Any]], row_group_videos: int) -> None:
    """Writes decoded videos as one shard. Equal rows give equal bytes."""
    with shard_writer(path, row_group_videos) as writer:
        for row in rows:
            writer.add(row)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a table as one Parquet file."""
    with storage.atomic_file(path) as aside:
        pq.write_table(table, aside, **PARQUET)
