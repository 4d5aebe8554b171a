"""The search index of a task: one vector per video or window, with what an answer shows of it.

An index is a folder::

    index.json          its version: what it was made from, and which files belong to it
    segments/<hash>/    rows that were added together (components.search.segments), never changed
    near-<hash>.faiss   an approximate index, for large collections
    adapter.json, adapter.safetensors   the adapter, whose text side answers the queries
    gallery.json        test queries for the report

It does not contain the backbone. To open one reads little more than ``index.json``: the rest is memory-mapped.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from components.adapters.card import read_card
from components.errors import DataError
from components.search import near, segments
from components.search.card import CARD, IndexCard, SegmentCard, read_index_card
from components.search.scores import Vectors
from components.search.segments import Segment

logger = logging.getLogger(__name__)

SEGMENTS = "segments"

# A reader that finds a file gone looks whether a new version has come, so often.
TRIES = 5

# So many runs of removed rows cost no more as pieces of a table than as a copy of it.
FEW_RUNS = 64


class Index:
    """An open index, of the version that was current when it was opened.

    Args:
        card: The version.
        parts: The open segments, in the order of the card.
        approximate: The approximate index, None if there is none.
    """

    def __init__(self, card: IndexCard, parts: tuple[Segment, ...], approximate: near.Near | None = None) -> None:
        self.card = card
        self.segments = parts
        self.near = approximate
        self._starts = np.concatenate([[0], np.cumsum([part.card.rows for part in parts], dtype=np.int64)])

    @property
    def count(self) -> int:
        """N, the number of rows without those that were removed."""
        return self.card.videos

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return self.card.dimension

    @functools.cached_property
    def gone(self) -> NDArray[np.int64]:
        """Ascending places, in all segments together, of the rows that were removed."""
        pairs = zip(self._starts, self.card.segments, strict=False)
        return np.concatenate([segments.rows_of_runs(card.removed) + start for start, card in pairs])

    @property
    def blocks(self) -> tuple[NDArray[np.float32], ...]:
        """The vectors ``float32[n, D]``, memory-mapped. Removed rows are left out, so they cut a segment in pieces."""
        found = []
        for part, card in zip(self.segments, self.card.segments, strict=True):
            found += [part.vectors[start:stop] for start, stop in _kept(card)]
        return tuple(found)

    def searched(self, device: torch.device) -> Vectors:
        """The vectors on a device, with the approximate index if there is one."""
        return Vectors([part.vectors for part in self.segments], device, self.gone, self.near)

    def table(self) -> pa.Table:
        """N rows of video_id, uri, start_seconds, end_seconds, window_of, split, and one column per fact."""
        return self._table

    @functools.cached_property
    def _table(self) -> pa.Table:
        pairs = zip(self.segments, self.card.segments, strict=True)
        return segments.join_tables([_shown(part.table, card) for part, card in pairs])

    def thumbnail(self, row: int) -> bytes:
        """JPEG bytes of the middle frame of a row. They are read now."""
        part, place = self._place(row)
        return part.thumbnail(place)

    def frames(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float32]] | None:
        """Times ``float64[T]`` in seconds of the file and L2-normalised vectors ``float32[T, D]`` of a row's frames.

        None if the index was made without ``search.frame_vectors``.
        """
        part, place = self._place(row)
        return part.frames(place)

    def vectors_of(self, rows: NDArray[np.int64] | list[int]) -> NDArray[np.float32]:
        """The vectors of some rows, ``float32[n, D]``, in their order."""
        found = np.empty((len(rows), self.dimension), dtype=np.float32)
        places = self._places(np.asarray(rows, dtype=np.int64))
        owner = np.searchsorted(self._starts, places, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            found[mine] = self.segments[number].vectors[places[mine] - self._starts[number]]
        return found

    def _place(self, row: int) -> tuple[Segment, int]:
        place = int(self._places(np.array([row]))[0])
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self.segments[number], place - int(self._starts[number])

    def _places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places in all segments together of rows that are counted without the removed ones."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.count:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {self.count}")
        return rows + np.searchsorted(self.gone - np.arange(len(self.gone)), rows, side="right")


def read(folder: Path) -> Index:
    """Opens an index. A version that replaces it later does not change what is open.

    Raises:
        DataError: There is no index, it has another format, or a file of it is missing or damaged.
    """
    for left in reversed(range(TRIES)):
        card = read_index_card(folder)
        try:
            return open_version(folder, card)
        except DataError:
            # What a newer version does not need is deleted.
            if not left or read_index_card(folder) == card:
                raise
    raise AssertionError("the last try raises or returns")


def open_version(folder: Path, card: IndexCard) -> Index:
    """Opens the files that a version names.

    Args:
        folder: The index folder.
        card: The version.

    Raises:
        DataError: A file is missing or damaged, or the adapter is another one.
    """
    cure = rebuild(card.task)
    found = read_card(folder).sha256
    if found != card.adapter_sha256:
        raise DataError(
            "the index was made with another adapter than the one next to it",
            where=folder,
            found=found,
            expected=card.adapter_sha256,
            cure=cure,
        )
    parts = [segments.open_segment(folder / SEGMENTS / part.name, part, cure) for part in card.segments]
    rows = sum(part.rows - sum(last + 1 - first for first, last in part.removed) for part in card.segments)
    if rows != card.videos or any(part.vectors.shape[1] != card.dimension for part in parts):
        raise DataError("damaged", where=folder / CARD, found=f"{rows} rows", expected=f"{card.videos} rows", cure=cure)
    return Index(card, tuple(parts), _near(folder, card, cure))


def _near(folder: Path, card: IndexCard, cure: str) -> near.Near | None:
    if card.near is None:
        return None
    if not near.is_installed():
        logger.warning("%s: searched exactly, since faiss is not installed: %s", card.task, near.INSTALL)
        return None
    return near.Near(folder / card.near.name, card.near, cure)


def rebuild(task: str) -> str:
    """What to do about a damaged index."""
    return f"run python pipelines/index.py --task {task}, which embeds again what is lost"


def _kept(card: SegmentCard) -> list[tuple[int, int]]:
    """Start and stop of each run of rows that are there."""
    starts = [0, *(last + 1 for _, last in card.removed)]
    stops = [*(first for first, _ in card.removed), card.rows]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if stop > start]


def _shown(table: pa.Table, card: SegmentCard) -> pa.Table:
    """The columns for answers, without the rows that were removed."""
    shown = table.select([name for name in table.column_names if not name.startswith(segments.PREFIX)])
    if len(card.removed) <= FEW_RUNS:
        return pa.concat_tables(
            [shown.slice(start, stop - start) for start, stop in _kept(card)] or [shown.slice(0, 0)]
        )
    kept = np.ones(card.rows, dtype=bool)
    kept[segments.rows_of_runs(card.removed)] = False
    return shown.filter(pa.array(kept))
