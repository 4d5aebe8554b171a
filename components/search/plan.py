"""What a new version of an index keeps of the one before, what it copies, and what has to be embedded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from components import storage
from components.frames.store import FrameStore
from components.search import segments
from components.search.opened import Index
from components.search.rows import Row, content_of, table_of
from components.search.segments import Part, Segment

# The hash of a row's content, and its place: 16 bytes each.
PAIR_BYTES = 32


@dataclass(frozen=True)
class Plan:
    """What becomes of rows: those that stay where they are, those that are copied, and those to embed."""

    kept: tuple[Segment, ...]
    moved: tuple[Part, ...]
    new: tuple[Row, ...]


def make_plan(old: Index | None, rows: Sequence[Row], store: FrameStore, moves: Path) -> Plan:
    """Compares the rows of now with those of an index.

    Frames are read only of videos that are elsewhere in the store than when they were looked at last.

    Args:
        old: An index whose vectors are right for rows with the same frames. None if there is no such index.
        rows: The rows of now.
        store: Their frames.
        moves: A file that keeps where frames went. It is written again, and may be deleted: then they are read again.
    """
    if old is None:
        return Plan((), (), tuple(rows))
    known = {}
    names = ["video_id", segments.PLACE, segments.META, segments.CONTENT]
    for number, segment in enumerate(old.segments):
        gone = set(segments.rows_of_runs(segment.card.removed).tolist())
        columns = zip(*(segment.table[name].to_pylist() for name in names), strict=True)
        for held, (video_id, place, meta, content) in enumerate(columns):
            if held not in gone:
                known[video_id] = (number, held, place, meta, content)
    doubtful = [row for row in rows if row.video.video_id in known and known[row.video.video_id][2] != row.place]
    changed = _changed(doubtful, {row.video.video_id: known[row.video.video_id][4] for row in doubtful}, store, moves)
    new, moved = [], dict[int, list[tuple[int, Row]]]()
    stays = [np.zeros(segment.card.rows, dtype=bool) for segment in old.segments]
    for row in rows:
        name = row.video.video_id
        if name not in known or name in changed:
            new.append(row)
            continue
        number, place, _, meta, _ = known[name]
        if meta == row.meta:
            stays[number][place] = True
        else:
            moved.setdefault(number, []).append((place, row))
    kept = [
        replace(segment, card=replace(segment.card, removed=segments.runs(np.flatnonzero(~stay))))
        for segment, stay in zip(old.segments, stays, strict=True)
        if stay.any()
    ]
    parts = [_moved(old.segments[number], sorted(pairs, key=lambda pair: pair[0])) for number, pairs in moved.items()]
    return Plan(tuple(kept), tuple(parts), tuple(new))


def _changed(rows: Sequence[Row], contents: Mapping[str, bytes], store: FrameStore, moves: Path) -> set[str]:
    """Ids of the videos whose frames are others than the index has. Frames at a new place are read."""
    known = moves.read_bytes() if moves.exists() else b""
    if not rows and not known:
        return set()
    pairs = {known[start : start + PAIR_BYTES] for start in range(0, len(known), PAIR_BYTES)}
    moved = {row.video.video_id: contents[row.video.video_id] + row.place for row in rows}
    read = [row for row in rows if moved[row.video.video_id] not in pairs]
    stored = zip(read, store.read([row.video.video_id for row in read]), strict=True)
    changed = {row.video.video_id for row, video in stored if content_of(video, row) != contents[row.video.video_id]}
    storage.write_bytes(moves, b"".join(pair for name, pair in moved.items() if name not in changed))
    return changed


def _moved(segment: Segment, pairs: Sequence[tuple[int, Row]]) -> Part:
    """Rows whose frames are the same, and of which the manifest says something else now."""
    places = np.array([place for place, _ in pairs], dtype=np.int64)
    lengths = segment.table["end_seconds"].take(places).to_pylist()
    rows = [row for _, row in pairs]
    known = [row.video.end_in(length) for row, length in zip(rows, lengths, strict=True)]
    table = table_of(rows, known).append_column(
        segments.HIDDEN.field(segments.PLACE), pa.array([row.place for row in rows], pa.binary(16))
    )
    return Part(segment, places, table)
