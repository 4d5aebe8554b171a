"""Checks of a frame store's files before their content is used. Each fault is one error that names the file."""

from __future__ import annotations

import hashlib
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components import heartbeat, storage
from components.errors import DataError, one_line
from components.frames import schema
from components.frames.card import StoredShard

CURE = "run pipelines/ingest.py for this task again"
# Ingest trusts a file whose length and time are those that it recorded.
OVERWRITE = "delete this file, and run pipelines/ingest.py for this task again with --overwrite"


def open_table(location: str) -> pq.ParquetFile:
    """Opens a Parquet file.

    Raises:
        DataError: The file is missing, cannot be read, or is not Parquet.
    """
    files, path = storage.filesystem(location)
    try:
        # Columns and row groups that adjoin are read by one request, not by one each.
        return pq.ParquetFile(files.open_input_file(path), pre_buffer=True)
    except FileNotFoundError:
        raise DataError("missing", where=location, cure=CURE) from None
    except (OSError, pa.ArrowException) as error:
        raise DataError("cannot be read", where=location, found=one_line(error), cure=CURE) from None


def check_columns(found: pa.Schema, expected: pa.Schema, where: str) -> None:
    """Compares columns. Those that may be null may be absent, as in older stores.

    Raises:
        DataError: A column is missing or has another type, or there is one too many.
    """
    wrong = [
        field.name
        for field in expected
        if (field.name not in found.names and not field.nullable)
        or (field.name in found.names and found.field(field.name).type != field.type)
    ]
    wrong += [name for name in found.names if name not in expected.names]
    if wrong or len(set(found.names)) < len(found.names):
        raise DataError(
            "not the columns of a frame store",
            where=where,
            found=", ".join(wrong) or found.names,
            expected=", ".join(expected.names),
            cure=CURE,
        )


def check_hash(location: str, shard: StoredShard) -> None:
    """Compares the content of a shard with the hash in the card.

    Raises:
        DataError: The file cannot be read or is not the one that ingest wrote.
    """
    files, path = storage.filesystem(location)
    digest = hashlib.sha256()
    try:
        with files.open_input_stream(path) as stream:
            while piece := stream.read(storage.PIECE_BYTES):
                digest.update(piece)
    except OSError as error:
        raise DataError("cannot be read", where=location, found=str(error), cure=CURE) from None
    heartbeat.mark()  # large shards of a slow storage take a while
    if digest.hexdigest() != shard.sha256:
        raise DataError(
            "shard is damaged: its SHA-256 differs from the card's",
            where=location,
            found=digest.hexdigest(),
            expected=shard.sha256,
            cure=OVERWRITE,
        )


def check_ledger(ledger: pa.Table, shards: tuple[StoredShard, ...], where: str) -> None:
    """Compares the ledger with the card: every decoded video has a different place in a shard, and no place is free.

    A video that shows another one backwards has that one's place. A window is of a decoded video.

    Raises:
        DataError: They do not fit each other, such as in a ledger that was cut or edited.
    """
    check_columns(ledger.schema, schema.LEDGER_WITH_REVERSALS.append(schema.WINDOW_OF), where)
    if schema.WINDOW_OF.name in ledger.schema.names:
        _check_windows(ledger, where)
    if "reverse_of" in ledger.schema.names:
        ledger = _without_reversals(ledger, where)
    columns = ledger.select(["video_id", "status", "shard", "row"]).to_pydict()
    ids, states = columns["video_id"], columns["status"]
    if (most := Counter(ids).most_common(1)) and most[0][1] > 1:
        raise DataError("a video occurs twice", where=where, found=most[0][0], cure=CURE)
    if unknown := sorted(set(map(str, states)) - {schema.DECODED, schema.FAILED}):
        raise DataError("unknown status", where=where, found=unknown[:5], cure=CURE)
    rows = zip(states, columns["shard"], columns["row"], strict=True)
    places = {(shard, row) for status, shard, row in rows if status == schema.DECODED}
    expected = {(number, row) for number, shard in enumerate(shards) for row in range(shard.videos)}
    if places != expected or states.count(schema.DECODED) != len(expected):
        raise DataError(
            "the ledger does not fit the shards: it was cut or edited",
            where=where,
            found=f"{states.count(schema.DECODED)} decoded videos",
            expected=f"{len(expected)}, one for each row of the shards",
            cure=CURE,
        )


def _check_windows(ledger: pa.Table, where: str) -> None:
    columns = ledger.select(["video_id", "split", "status", schema.WINDOW_OF.name]).to_pydict()
    rows = list(zip(*columns.values(), strict=True))
    videos = {video_id: (split, status) for video_id, split, status, source in rows if source is None}
    for video_id, split, status, source in rows:
        if source is not None and not (status == schema.DECODED and videos.get(source) == (split, status)):
            raise DataError(
                "a window is not of a decoded video of its split",
                where=where,
                found=video_id,
                expected=f"it and {source} decoded, in one split",
                cure=CURE,
            )


def _without_reversals(ledger: pa.Table, where: str) -> pa.Table:
    """The rows of videos that have frames of their own."""
    rows = {row["video_id"]: row for row in ledger.to_pylist()}
    for row in rows.values():
        shown = rows.get(row["reverse_of"])
        same = ("status", "shard", "row")
        if row["reverse_of"] is not None and (
            shown is None or shown["reverse_of"] is not None or any(row[name] != shown[name] for name in same)
        ):
            raise DataError(
                "a video that runs backwards does not have the place of the one that it shows",
                where=where,
                found=row["video_id"],
                expected=f"the status, shard and row of {row['reverse_of']}",
                cure=CURE,
            )
    return ledger.filter(pc.is_null(ledger["reverse_of"]))
