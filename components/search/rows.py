"""What an index holds of a collection: one row per decoded video, with what identifies its frames."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from components.frames.store import FrameStore, StoredVideo
from components.search import segments
from components.video import Video


@dataclass(frozen=True)
class Row:
    """A row to index.

    Attributes:
        video: The video, or a window of one.
        place: 16 bytes that stay the same while its frames stay where they are in the store, and its span stays too.
    """

    video: Video
    place: bytes

    @property
    def meta(self) -> bytes:
        """16 bytes that stay the same while the manifest says the same of the video."""
        video = self.video
        said = [video.uri, video.start_seconds, video.end_seconds, video.split, video.window_of, dict(video.facts)]
        return _short(json.dumps(said, sort_keys=True).encode())


def rows_of(store: FrameStore, split: str) -> list[Row]:
    """The decoded videos of a split in the order of the store, or their windows. No index has captions.

    Raises:
        DataError: There is no such split.
    """
    videos, places = store.manifest.by_id(), _places(store)
    found = [
        dataclasses.replace(videos[name], captions=(), languages=(), moments=()) for name in store.searched_ids(split)
    ]
    return [Row(video, _short(places[video.video_id] + _span(video))) for video in found]


def _places(store: FrameStore) -> dict[str, bytes]:
    """Shard, row and direction of each decoded video."""
    names = ["video_id", "shard", "row"]
    backwards = "reverse_of" in store.ledger().schema.names
    table = store.ledger().select([*names, "reverse_of"] if backwards else names).to_pydict()
    shown = table.get("reverse_of") or [None] * len(table["video_id"])
    hashes = [bytes.fromhex(shard.sha256) for shard in store.card.shards]
    return {
        name: hashes[shard] + f"{row} {other is not None}".encode()
        for name, shard, row, other in zip(table["video_id"], table["shard"], table["row"], shown, strict=True)
        if row is not None
    }


def content_of(stored: StoredVideo, row: Row) -> bytes:
    """16 bytes of a hash over the frames of a video and its span. Rows with equal ones have equal vectors."""
    digest = hashlib.sha256(_span(row.video))
    for jpeg in stored.frames:
        digest.update(len(jpeg).to_bytes(8, "little") + jpeg)
    return digest.digest()[:16]


def table_of(rows: Sequence[Row], ends: Sequence[float]) -> pa.Table:
    """What an index says of rows: the columns of :data:`components.search.segments.SHOWN`, facts, and the hash of both.

    Args:
        rows: The rows.
        ends: Where each ends in its file, in seconds.

    Raises:
        DataError: A fact has a name that is taken, or values of different kinds.
    """
    videos = [row.video for row in rows]
    columns = [
        [video.video_id for video in videos],
        [video.uri for video in videos],
        [video.start_seconds or 0.0 for video in videos],
        list(ends),
        [video.window_of for video in videos],
        [video.split for video in videos],
    ]
    arrays = [pa.array(column, known.type) for column, known in zip(columns, segments.SHOWN, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=segments.SHOWN)
    for name, column in segments.facts_of([video.facts for video in videos]).items():
        table = table.append_column(name, column)
    return table.append_column(
        segments.HIDDEN.field(segments.META), pa.array([row.meta for row in rows], pa.binary(16))
    )


def _span(video: Video) -> bytes:
    return repr((video.start_seconds, video.end_seconds)).encode()


def _short(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:16]
