"""Frames that an earlier run decoded: found by what they were made from, and copied instead of decoded again.

A manifest that gained, lost or renamed videos has different shards. Their rows come from the shards of earlier
manifests, if the file's content, the segment and every setting that affects pixels are the same. One SQLite file lists
those rows. It is written before the tasks start, and the tasks only read it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from components import storage
from components.errors import DataError
from components.ingest.isolation import TRIED_TWICE, Outcome
from components.ingest.records import DoneShard, Identity, LedgerRow, Limits, Origin, is_transient
from components.ingest.spool import Window
from components.video import Video

# The one sampling rule that draws by the file's name.
DRAWN_BY_NAME = "segment_random"

SCHEMA = """
CREATE TABLE rows (uri TEXT, size INTEGER, mtime_ns INTEGER, sha256 TEXT, start REAL, end REAL, name TEXT,
                   file TEXT, row INTEGER, reason TEXT, detail TEXT);
CREATE TABLE windows (file TEXT, source INTEGER, start REAL, end REAL, row INTEGER);
CREATE INDEX by_uri ON rows (uri);
CREATE INDEX by_sha256 ON rows (sha256);
CREATE INDEX by_source ON windows (file, source);
"""


@dataclass(frozen=True)
class EarlierRow:
    """A row of an earlier run, and the hash of the video's file."""

    outcome: Outcome
    sha256: str


def write_index(path: Path, shards: Iterable[tuple[Path, DoneShard]], limits: Limits) -> int:
    """Writes which videos the finished shards of earlier runs hold.

    Failures count too, since the same content fails again. The exceptions are failures that other limits, or another
    state of the machine or storage, would change.

    Args:
        path: Where to write the index. An existing file is replaced.
        shards: File and record of each shard, all made with this run's settings for rows.
        limits: This run's limits.

    Returns:
        The number of videos.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as index:
        index.executescript(SCHEMA)
        for file, done in shards:
            rows = [
                (
                    *(origin.uri, *origin.identity, origin.sha256, origin.start_seconds, origin.end_seconds),
                    *(_name(origin.uri), str(file), row.row, row.reason, row.detail),
                )
                for origin, row in zip(done.origins, done.ledger, strict=True)
                if origin.identity is not None and _is_reusable(origin, row, done.limits, limits)
            ]
            index.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            places = {row.video_id: row.row for row in done.ledger}
            windows = [(str(file), places[w.video_id], w.start_seconds, w.end_seconds, w.row) for w in done.windows]
            index.executemany("INSERT INTO windows VALUES (?, ?, ?, ?, ?)", windows)
        count = index.execute("SELECT count(*) FROM rows").fetchone()[0]
    index.close()
    return int(count)


def _is_reusable(origin: Origin, row: LedgerRow, then: Limits, now: Limits) -> bool:
    if origin.sha256 is None or is_transient(row.reason, row.detail, then):
        return False
    return then == now or row.reason not in TRIED_TWICE


class EarlierRows:
    """The rows of earlier runs. A context manager: its files are closed at the end of the block.

    Args:
        path: The index that :func:`write_index` wrote.
        sampling: This run's sampling rule.
    """

    def __init__(self, path: Path, sampling: str) -> None:
        self._sampling = sampling
        self._index = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
        self._held: tuple[str, int, int, pa.Table] | None = None
        self._open: tuple[str, pq.ParquetFile] | None = None

    def __enter__(self) -> EarlierRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._index.close()
        if self._open is not None:
            self._open[1].close()
        self._held = self._open = None

    def by_identity(self, video: Video, identity: Identity) -> EarlierRow | None:
        """Finds the row of a file at the same place, with the same size and modification time."""
        return self._find("uri = ? AND size = ? AND mtime_ns = ?", (video.uri, *identity), video)

    def by_content(self, video: Video, sha256: str) -> EarlierRow | None:
        """Finds the row of a file with this content, whatever its name was."""
        return self._find("sha256 = ?", (sha256,), video)

    def _find(self, where: str, values: tuple[Any, ...], video: Video) -> EarlierRow | None:
        columns = "sha256, file, row, reason, detail"
        query = f"SELECT {columns} FROM rows WHERE {where} AND start IS ? AND end IS ?"  # nosec B608
        values = (*values, video.start_seconds, video.end_seconds)
        if self._sampling == DRAWN_BY_NAME:
            query, values = f"{query} AND name = ?", (*values, _name(video.uri))
        if (found := self._index.execute(f"{query} ORDER BY reason LIMIT 1", values).fetchone()) is None:
            return None
        sha256, file, number, reason, detail = found
        if reason:
            return EarlierRow(Outcome(reason, detail), sha256)
        row = self._read(file, number)
        if row["content_sha256"] != sha256:
            raise DataError("row is not the one that its record names", where=f"{file} row {number}", expected=sha256)
        return EarlierRow(Outcome(None, row=row, windows=self._windows(file, number)), sha256)

    def _windows(self, file: str, source: int) -> Iterator[Window]:
        """Reads the windows of the video in row ``source``, in the order in which they are stored."""
        query = "SELECT start, end, row FROM windows WHERE file = ? AND source = ? ORDER BY row"
        for start, end, number in self._index.execute(query, (file, source)).fetchall():
            yield Window(start, end, self._read(file, number))

    def _read(self, file: str, number: int) -> dict[str, Any]:
        """Reads a row. Its row group is kept, since the next row is often in it."""
        if self._held is None or self._held[0] != file or not self._held[1] <= number < self._held[2]:
            if self._open is None or self._open[0] != file:
                if self._open is not None:
                    self._open[1].close()
                self._open = (file, pq.ParquetFile(file))
            shard = self._open[1]
            # All row groups but the last have one size.
            size = shard.metadata.row_group(0).num_rows
            group = number // size
            table = shard.read_row_group(group)
            self._held = (file, group * size, group * size + table.num_rows, table)
        _, first, _, table = self._held
        return dict(table.slice(number - first, 1).to_pylist()[0])


def _name(uri: str) -> str:
    return PurePosixPath(storage.split(uri)[1]).stem
