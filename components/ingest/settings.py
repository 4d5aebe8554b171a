"""The ``frames`` block of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT, Count, Seconds, Share


@dataclass(frozen=True, config=STRICT)
class FrameSettings:
    """How videos become stored frames."""

    decoder: str
    sampling: Literal["uniform", "segment_center", "segment_random", "clip4clip", "mv_adapter", "adaptive"]
    size: Annotated[int, Field(ge=16)]
    quality: Annotated[int, Field(ge=1, le=100)]
    chroma: Literal[444, 420]
    shard_videos: Count
    row_group_videos: Count
    time_limit_seconds: Seconds
    memory_limit_mib: Annotated[int, Field(ge=256)]
    max_failed_share: Share
    store: str
