"""An entry of ``tasks`` in params.yaml: one collection and its protocol."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT, Count


@dataclass(frozen=True, config=STRICT)
class TaskSettings:
    """One collection and its protocol.

    Args:
        benchmark: The reader: a registered name, the name of an entry point, or ``"package.module:READER"``.
        root: The folder or URI of annotations and videos. A relative path starts from the root of the project.
        frames: T, the frames sampled per video.
        words: L, the tokens per text, start and end token included.
        options: The options of the reader.
    """

    benchmark: str
    root: str
    frames: Count
    words: Annotated[int, Field(ge=3)]
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
