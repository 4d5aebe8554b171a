"""The ``search`` block of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from components.config import STRICT, Count


@dataclass(frozen=True, config=STRICT)
class SearchSettings:
    """The index and its answers.

    Attributes:
        split: The videos to index.
        top: The default number of answers.
    """

    split: Literal["train", "val", "test", "all"]
    top: Count
