"""From questions to vectors: texts, pictures, videos, and videos of the index."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.errors import DataError
from components.frames.card import StoreSettings
from components.frames.card import read_card as read_store_card
from components.methods.base import Method
from components.search import media
from components.search.index import Index
from components.search.question import Part, Question, combine

# Ids among which a similar one is looked for, in a message.
NEAR_IDS = 100_000

# Texts that go through the tower together.
TEXTS = 256


@dataclass(frozen=True)
class Collection:
    """Where the searched videos come from.

    Attributes:
        root: The folder that relative paths start from.
        frames: The frame store, or the folder of its card.
    """

    root: Path
    frames: Path


class Asking:
    """Makes the vectors of questions.

    Args:
        method: The backbone with the adapter of the index.
        index: The index.
        collection: Where the videos come from, None if pictures and videos are not asked.
    """

    def __init__(self, method: Method, index: Index, collection: Collection | None) -> None:
        self.method = method
        self.index = index
        self.collection = collection
        self.device = next(method.parameters()).device

    def vectors(self, asked: Sequence[Question]) -> Tensor:
        """``float32[Q, D]``, the vector of each question. Texts go through the tower in batches."""
        texts = [part.value for question in asked for part in question.parts if part.kind == "text"]
        encoded = self._encoded(texts)
        made = []
        for question in asked:
            parts = [next(encoded) if part.kind == "text" else self._seen(part) for part in question.parts]
            made.append(combine(torch.stack(parts), [part.weight for part in question.parts]))
        return torch.stack(made)

    def _encoded(self, texts: Sequence[str]) -> Iterator[Tensor]:
        """The vector of each text: ``float32[D]``."""
        for start in range(0, len(texts), TEXTS):
            tokens = self.method.backbone.tokenize(list(texts[start : start + TEXTS]), self.method.words)
            yield from self.method.encode_text(tokens.to(self.device))

    def _seen(self, part: Part) -> Tensor:
        """The vector of a picture, a video or a video of the index: ``float32[D]``."""
        if part.kind == "like":
            vectors = self.index.vectors_of(self.rows_of(part.value)).astype(np.float64).mean(axis=0)
            return torch.from_numpy((vectors / np.linalg.norm(vectors)).astype(np.float32)).to(self.device)
        read = media.picture_frames if part.kind == "picture" else media.video_frames
        return media.vector_of(self.method, read(part.value, self._store_settings()))

    def _store_settings(self) -> StoreSettings:
        """How the collection's videos became frames."""
        if self.collection is None:
            raise DataError("without a frame store, neither a picture nor a video can be asked")
        return read_store_card(self.collection.frames).settings

    def rows_of(self, video_id: str) -> NDArray[np.int64]:
        """The row of a video, or those of its windows.

        Raises:
            DataError: The index has none.
        """
        table = self.index.table()
        for column in ("video_id", "window_of"):
            rows = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(table[column], video_id), False)))
            if len(rows):
                return rows
        near = difflib.get_close_matches(video_id, table["video_id"].slice(0, NEAR_IDS).to_pylist(), n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise DataError(
            "the index has no such video",
            where="like",
            found=video_id,
            expected=f"the id of one of its {self.index.count} videos{hint}",
        )

    def rows_alike(self, question: Question) -> NDArray[np.int64]:
        """Rows that a question is made from, and windows that overlap them. They are no answers to it."""
        rows = [self.rows_of(part.value) for part in question.parts if part.kind == "like"]
        if not rows:
            return np.zeros(0, dtype=np.int64)
        given = np.concatenate(rows)
        table = self.index.table()
        alike = [given]
        for one in table.take(given).to_pylist():
            if one["window_of"] is not None:
                same = pc.equal(table["window_of"], one["window_of"])
                early = pc.less(table["start_seconds"], one["end_seconds"])
                late = pc.greater(table["end_seconds"], one["start_seconds"])
                alike.append(np.flatnonzero(pc.fill_null(pc.and_(same, pc.and_(early, late)), False).to_numpy()))
        return np.unique(np.concatenate(alike))
