"""The ``search`` block of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT, Count, Share


@dataclass(frozen=True, config=STRICT)
class SearchSettings:
    """The index and its answers.

    Attributes:
        split: The videos to index. ``auto`` means the test split of a published benchmark, whose results it shows, and
            all videos of any other collection, which is there to be searched.
        top: The default number of answers.
        max_overlap: The largest intersection over union of two windows of one file in an answer. Of windows that
            overlap further, the best is the answer.
        near_duplicates: The cosine of two videos from which on the lower one is folded into the higher one. None folds
            nothing.
        false_alarms: The share of questions without a right answer that may get one in spite of the cut-off.
        frame_vectors: Whether the index keeps the vector of each frame next to that of the video.
        exact_rows: The most rows that are searched exactly on a CPU. A larger index gets an approximate one too, if
            faiss is installed. A GPU searches exactly.
    """

    split: Literal["auto", "train", "val", "test", "all"]
    top: Count
    max_overlap: Share = 0.3
    near_duplicates: Annotated[float, Field(ge=-1, le=1)] | None = None
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.05
    # New since 0.1, so files without them are right too.
    frame_vectors: bool = False
    exact_rows: Count = 200_000

    def split_of(self, published: bool) -> str:
        """The split to index of a task, which is a published benchmark or not."""
        if self.split != "auto":
            return self.split
        return "test" if published else "all"
