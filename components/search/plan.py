"""What a new version of an index keeps of the one before, what it copies, and what has to be embedded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from components.frames.store import FrameStore
from components.search import segments
from components.search.opened import Index
from components.search.rows import Row, content_of, table_of
from components.search.segments import Part, Segment


@dataclass(frozen=True)
class Plan:
    """What becomes of rows: those that stay where they are, those that are copied, and those to embed."""

    kept: tuple[Segment, ...]
    moved: tuple[Part, ...]
    new: tuple[Row, ...]


def make_plan(old: Index | None, rows: Sequence[Row], store: FrameStore) -> Plan:
    """Compares the rows of now with those of an index.

    Frames are read only of videos that are elsewhere in the store than before.

    Args:
        old: An index whose vectors are right for rows with the same frames. None if there is no such index.
        rows: The rows of now.
        store: Their frames.
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
    changed = _changed(doubtful, {name: found[4] for name, found in known.items()}, store)
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


def _changed(rows: Sequence[Row], contents: Mapping[str, bytes], store: FrameStore) -> set[str]:
    """Ids of the videos whose frames are others than the index has. Their frames are read."""
    stored = store.read([row.video.video_id for row in rows])
    pairs = zip(rows, stored, strict=True)
    return {row.video.video_id for row, video in pairs if content_of(video, row) != contents[row.video.video_id]}


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
