"""An index in memory, for rows that no small collection has: windows, frames and exact copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from components.search.index import Index
from components.search.scores import Vectors

Frames = tuple[NDArray[np.float64], NDArray[np.float32]]


class HeldIndex:
    """What a searcher needs of an index.

    Args:
        rows: Columns of the table by name, for each row. Those that are missing have a value.
        vectors: ``float32[N, D]``.
        kept: Frames of some rows.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        vectors: NDArray[np.float32],
        kept: Mapping[int, Frames] | None = None,
    ) -> None:
        columns = {"uri": "film.mp4", "start_seconds": 0.0, "end_seconds": 1.0, "window_of": None, "split": "test"}
        whole = [{**columns, **row} for row in rows]
        schema = pa.Table.from_pylist(whole).schema if whole else pa.schema([("video_id", pa.string())])
        for name in ("video_id", *columns):
            kind = pa.float64() if name.endswith("seconds") else pa.string()
            place = schema.get_field_index(name)
            schema = schema.append(pa.field(name, kind)) if place < 0 else schema.set(place, pa.field(name, kind))
        self._table = pa.Table.from_pylist(whole, schema=schema)
        self._vectors = vectors
        self._kept = kept or {}
        self.count, self.dimension = vectors.shape

    @property
    def blocks(self) -> tuple[NDArray[np.float32], ...]:
        half = self.count // 2
        return self._vectors[:half], self._vectors[half:]

    def table(self) -> pa.Table:
        return self._table

    def vectors_of(self, rows: NDArray[np.int64] | list[int]) -> NDArray[np.float32]:
        return self._vectors[rows]

    def thumbnail(self, row: int) -> bytes:
        return b""

    def frames(self, row: int) -> Frames | None:
        return self._kept.get(row)

    def searched(self, device: torch.device) -> Vectors:
        return Vectors((self._vectors,), device)

    @property
    def as_index(self) -> Index:
        """Itself, for the type checker."""
        return cast(Index, self)


def copied(index: Index) -> tuple[list[dict[str, Any]], NDArray[np.float32]]:
    """The rows and vectors of an index."""
    return index.table().to_pylist(), np.array(index.vectors_of(np.arange(index.count)))
