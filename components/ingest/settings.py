"""The ``frames`` block of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT, Count, Seconds, Share


@dataclass(frozen=True, config=STRICT)
class FrameSettings:
    """How videos become stored frames.

    Args:
        decoder: A name in :data:`components.ingest.decoders.DECODERS`, or ``"package.module:function"``.
        sampling: The rule that picks frames, see :mod:`components.ingest.sampling`.
        size: Short side of the stored frames in pixels.
        quality: JPEG quality.
        chroma: JPEG chroma subsampling, 4:4:4 or 4:2:0.
        shard_videos: Videos per shard.
        row_group_videos: Videos per row group of a shard.
        time_limit_seconds: Processor time after which a video has failed, see :mod:`components.ingest.limits`.
        memory_limit_mib: Memory of the decoding process, above which a video has failed.
        max_failed_share: Ratio of failed videos, above which nothing is published, unless they are few.
        max_failed_videos: So many failed videos are accepted whatever their ratio, if at least as many are decoded and
            the ratio is not 0, which accepts none.
        store: Folder or URI of the stores. Empty means the project's outputs.
    """

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
    max_failed_videos: Annotated[int, Field(ge=0)] = 3
