"""An entry of ``tasks`` in params.yaml: one collection and its protocol."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT, Count


@dataclass(frozen=True, config=STRICT)
class TaskSettings:
    """One collection: where it is, who reads it, and its protocol's frames and words."""

    benchmark: str
    root: str
    frames: Count
    words: Annotated[int, Field(ge=3)]
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
