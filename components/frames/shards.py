"""Shards: which videos go together, and the making of one."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components import storage
from components.benchmarks.base import SPLITS, Manifest, Video
from components.frames import schema
from components.frames.isolation import DecodeProcess, Outcome, Recipe
from components.frames.store import write_shard
from components.provenance import sha256_file


@dataclass(frozen=True)
class Settings:
    """All that the bytes of a store depend on, beside the manifest, the videos and the libraries."""

    recipe: Recipe
    decoder: str
    shard_videos: int
    row_group_videos: int
    time_limit_seconds: float
    memory_limit_mib: int

    def to_dict(self) -> dict[str, Any]:
        """Flat, under the names of params.yaml."""
        flat = asdict(self)
        return {**flat.pop("recipe"), **flat}


@dataclass(frozen=True)
class Shard:
    """Videos that are decoded by one task into one file."""

    number: int
    videos: tuple[Video, ...]

    def to_row(self) -> dict[str, Any]:
        """A row of a Ray data set; as text, since Arrow would guess another type for every mix of absent values."""
        return {"number": self.number, "videos": json.dumps([asdict(video) for video in self.videos])}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Shard:
        """The inverse of :meth:`to_row`."""
        videos = [
            Video(**{**video, "captions": tuple(video["captions"]), "subsets": tuple(video["subsets"])})
            for video in json.loads(row["videos"])
        ]
        return cls(int(row["number"]), tuple(videos))


@dataclass(frozen=True)
class DoneShard:
    """A finished shard.

    Args:
        number: of the shard.
        sha256: of its bytes.
        bytes: length.
        ledger: a row of :data:`components.frames.schema.LEDGER_SCHEMA` per video, as mappings.
        sources: size in bytes and modification time in ns of every source file when it was read; None: no file.
        seconds: wall clock of its making.
    """

    number: int
    sha256: str
    bytes: int
    ledger: list[dict[str, Any]]
    sources: list[list[int] | None]
    seconds: float


def plan_shards(manifest: Manifest, shard_videos: int) -> list[Shard]:
    """Consecutive videos of one split a shard, in manifest order, whatever the number of workers."""
    groups = [
        tuple(videos[start : start + shard_videos])
        for videos in (manifest.split(split) for split in SPLITS)
        for start in range(0, len(videos), shard_videos)
    ]
    return [Shard(number, videos) for number, videos in enumerate(groups)]


def make_shard(shard: Shard, root: Path, folder: Path, settings: Settings) -> DoneShard:
    """Decodes the videos of a shard one after the other and writes them as ``folder/shard-<number>.parquet``.

    Raises:
        DataError: the decoding process does not start. Nothing a video does raises.
    """
    start = time.monotonic()
    rows: list[dict[str, Any]] = []
    ledger: list[dict[str, Any]] = []
    sources = [source_identity(root, video) for video in shard.videos]
    with DecodeProcess(settings.recipe, settings.time_limit_seconds, settings.memory_limit_mib) as process:
        for video in shard.videos:
            path = storage.resolve(root, video.uri)
            outcome = process.decode(path, video.start_seconds, video.end_seconds)
            ledger.append(_ledger_row(video, outcome, settings.decoder, shard.number, len(rows)))
            if outcome.reason is None:
                rows.append({"video_id": video.video_id, **outcome.row})
    file = folder / schema.shard_name(shard.number)
    write_shard(file, rows, settings.row_group_videos)
    seconds = round(time.monotonic() - start, 3)
    return DoneShard(shard.number, sha256_file(file), file.stat().st_size, ledger, sources, seconds)


def source_identity(root: Path, video: Video) -> list[int] | None:
    """Size in bytes and modification time in ns of a video's file, None where there is none."""
    try:
        found = os.stat(storage.resolve(root, video.uri))
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _ledger_row(video: Video, outcome: Outcome, decoder: str, shard: int, row: int) -> dict[str, Any]:
    decoded = outcome.reason is None
    return {
        "video_id": video.video_id,
        "split": video.split,
        "status": schema.DECODED if decoded else schema.FAILED,
        "reason": outcome.reason or "",
        "detail": outcome.detail,
        "decoder": outcome.row.get("decoder", decoder),
        "corrupt_frames": outcome.row.get("corrupt_frames"),
        "frames": len(outcome.row.get("frames", ())),
        "shard": shard,
        "row": row if decoded else None,
    }


def flat_ledger(records: list[DoneShard], manifest: Manifest) -> list[dict[str, Any]]:
    """Ledger rows of all shards in manifest order."""
    rows = {row["video_id"]: row for done in records for row in done.ledger}
    return [rows[video.video_id] for video in manifest.videos]
