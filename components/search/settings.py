"""The ``search`` block of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from components.config import STRICT, Count


@dataclass(frozen=True, config=STRICT)
class SearchSettings:
    """The index and its answers.

    Attributes:
        split: The videos to index. ``auto`` means the test split of a published benchmark, whose results it shows, and
            all videos of any other collection, which is there to be searched.
        top: The default number of answers.
        frame_vectors: Whether the index keeps the vector of each frame next to that of the video.
        exact_rows: The most rows that are searched exactly on a CPU. A larger index gets an approximate one too, if
            faiss is installed. A GPU searches exactly.
    """

    split: Literal["auto", "train", "val", "test", "all"]
    top: Count
    # New since 0.1, so files without them are right too.
    frame_vectors: bool = False
    exact_rows: Count = 200_000

    def split_of(self, published: bool) -> str:
        """The split to index of a task, which is a published benchmark or not."""
        if self.split != "auto":
            return self.split
        return "test" if published else "all"
