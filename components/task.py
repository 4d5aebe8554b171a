"""An entry of ``tasks`` in params.yaml: one collection and its protocol."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT, Count, Seconds, Share


@dataclass(frozen=True, config=STRICT)
class WindowSettings:
    """How files that are longer than a window are cut into windows, each of which can be found by itself.

    Args:
        seconds: The length of a window. With ``cut: shots``, the longest window.
        overlap: The share of a window that the next one shows too. Fixed windows only.
        cut: ``fixed``: windows of equal length. ``shots``: windows end where the picture changes.
        change: How large a change of the picture is a cut, from 0 to 1: the mean absolute difference of the colours of
            two pictures of 16 x 16 pixels, a quarter of a second apart. Shots only.
        shortest: Seconds after the start of a window in which a change does not end it. Shots only.
    """

    seconds: Annotated[float, Field(ge=0.5)]
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    cut: Literal["fixed", "shots"] = "fixed"
    change: Share = 0.12
    shortest: Seconds = 1.0

    def __post_init__(self) -> None:
        if self.cut == "shots" and self.overlap:
            raise ValueError(f"overlap is {self.overlap:g}, but shots do not overlap: set it to 0, or cut to fixed")
        if self.cut == "shots" and self.shortest >= self.seconds:
            raise ValueError(f"shortest is {self.shortest:g} s, expected less than seconds ({self.seconds:g})")


@dataclass(frozen=True, config=STRICT)
class CaptionSettings:
    """Where the captions of a task's training frames come from: a captioner that makes them, or a table.

    Args:
        captioner: ``"package.module:Class"``, or the name of an entry point in the group ``reeltune.captioners``.
        options: The keyword arguments that the captioner is made with.
        table: A ``.csv``, ``.jsonl`` or ``.parquet`` file, relative to the task's ``root``.
        batch_size: Frames per call of the captioner.
        actors: How many captioners run at the same time.
        gpus: GPUs per captioner.
    """

    captioner: str | None = None
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    table: str | None = None
    batch_size: Count = 16
    actors: Count = 1
    gpus: Annotated[float, Field(ge=0)] = 0.0

    def __post_init__(self) -> None:
        if (self.captioner is None) == (self.table is None):
            raise ValueError("set either captioner or table")
        if self.table is not None and self.options:
            raise ValueError("options belong to a captioner, and a table has none")


@dataclass(frozen=True, config=STRICT)
class TaskSettings:
    """One collection and its protocol.

    Args:
        benchmark: The reader: a registered name, the name of an entry point, or ``"package.module:READER"``.
        root: The folder or URI of annotations and videos. A relative path starts from the root of the project.
        frames: T, the frames sampled per video.
        words: L, the tokens per text, start and end token included.
        options: The options of the reader.
        windows: How long files are cut into windows. None cuts no file.
        captions: Where captions of the training frames come from. None where no method needs them.
    """

    benchmark: str
    root: str
    frames: Count
    words: Annotated[int, Field(ge=3)]
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    windows: WindowSettings | None = None
    captions: CaptionSettings | None = None
