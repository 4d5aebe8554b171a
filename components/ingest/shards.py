"""Shards: which videos go together, and the making of one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components import storage
from components.frames import schema
from components.frames.store import shard_writer
from components.ingest import sources
from components.ingest.isolation import DecodeProcess, Outcome, Recipe
from components.ingest.reuse import Earlier
from components.manifest import SPLITS, Manifest, Video
from components.provenance import sha256_file

# Called after every video with its ledger row and whether its frames were taken from an earlier store.
Note = Callable[[dict[str, Any], bool], None]


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

    def process(self) -> DecodeProcess:
        """Decodes under these settings."""
        return DecodeProcess(self.recipe, self.time_limit_seconds, self.memory_limit_mib)

    def limits(self) -> dict[str, float]:
        """What decides beside the file whether a video fails: under other limits such failures are tried again."""
        return {"time_limit_seconds": self.time_limit_seconds, "memory_limit_mib": self.memory_limit_mib}

    def row_key(self) -> str:
        """The part that a video's row depends on, as text: shards may be cut anew without decoding."""
        return json.dumps([asdict(self.recipe), self.decoder])


@dataclass(frozen=True)
class Shard:
    """Videos that are decoded by one task into one file."""

    number: int
    videos: tuple[Video, ...]

    def to_row(self) -> dict[str, Any]:
        """A row of a Ray data set, without captions, which its task does not need.

        As text, since Arrow would guess another type for every mix of absent values.
        """
        videos = [(v.video_id, v.uri, v.split, v.start_seconds, v.end_seconds) for v in self.videos]
        return {"number": self.number, "videos": json.dumps(videos)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Shard:
        """The inverse of :meth:`to_row`, but for captions."""
        videos = (
            Video(video_id, uri, split, (), start, end)
            for video_id, uri, split, start, end in json.loads(row["videos"])
        )
        return cls(int(row["number"]), tuple(videos))


@dataclass(frozen=True)
class Origin:
    """What a video's frames were made from.

    Args:
        uri, start_seconds, end_seconds: as in the manifest.
        identity: size in bytes and modification time in ns of the file when it was read; None: no file.
        sha256: of its content; None where it could not be read.
    """

    uri: str
    start_seconds: float | None
    end_seconds: float | None
    identity: tuple[int, int] | None
    sha256: str | None


@dataclass(frozen=True)
class DoneShard:
    """A finished shard.

    Args:
        number: of the shard.
        sha256: of its bytes.
        bytes, mtime_ns: length and modification time of its file.
        ledger: a row of :data:`components.frames.schema.LEDGER_SCHEMA` per video, as mappings.
        origins: an :class:`Origin` per video, as mappings.
        tried: videos that were decoded, or failed to be; the others' frames come from an earlier run.
        limits: :meth:`Settings.limits` under which they were decoded.
        seconds: wall clock of its making.
    """

    number: int
    sha256: str
    bytes: int
    mtime_ns: int
    ledger: list[dict[str, Any]]
    origins: list[dict[str, Any]]
    tried: int
    limits: dict[str, float]
    seconds: float

    @property
    def is_complete(self) -> bool:
        """Whether no video waits for its storage to answer."""
        return all(row["reason"] != sources.NOT_FETCHED for row in self.ledger)


def plan_shards(manifest: Manifest, shard_videos: int) -> list[Shard]:
    """Consecutive videos of one split a shard, in manifest order, whatever the number of workers."""
    groups = [
        tuple(videos[start : start + shard_videos])
        for videos in (manifest.split(split) for split in SPLITS)
        for start in range(0, len(videos), shard_videos)
    ]
    return [Shard(number, videos) for number, videos in enumerate(groups)]


def make_shard(
    shard: Shard,
    root: Path,
    folder: Path,
    settings: Settings,
    process: DecodeProcess,
    earlier: Earlier | None = None,
    note: Note = lambda row, reused: None,
) -> DoneShard:
    """Decodes the videos of a shard one after the other and writes them as ``folder/shard-<number>.parquet``.

    Args:
        shard: which videos.
        root: the project's folder.
        folder: of the shard.
        settings: how.
        process: of these settings; stays open.
        earlier: rows that need not be decoded again.
        note: told of every video.

    Raises:
        DataError: the decoding process does not start. Nothing a video does raises.
    """
    start = time.monotonic()
    ledger: list[dict[str, Any]] = []
    origins: list[Origin] = []
    tried = 0
    file = folder / schema.shard_name(shard.number)
    with shard_writer(file, settings.row_group_videos) as writer:
        for video in shard.videos:
            outcome, origin, reused = _frames_of(video, root, process, earlier)
            ledger.append(_ledger_row(video, outcome, settings.decoder, shard.number, writer.rows))
            if outcome.reason is None:
                writer.add({**outcome.row, "video_id": video.video_id})
            origins.append(origin)
            tried += not reused
            note(ledger[-1], reused)
    found = file.stat()
    return DoneShard(
        number=shard.number,
        sha256=sha256_file(file),
        bytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ledger=ledger,
        origins=[asdict(origin) for origin in origins],
        tried=tried,
        limits=settings.limits(),
        seconds=round(time.monotonic() - start, 3),
    )


def _frames_of(
    video: Video, root: Path, process: DecodeProcess, earlier: Earlier | None
) -> tuple[Outcome, Origin, bool]:
    """A video's frames, where they come from, and whether they were decoded by an earlier run."""
    location = storage.resolve(root, video.uri)
    identity, sha256 = None, None
    try:
        # Before the file is read: one that changes meanwhile has another identity afterwards.
        identity = sources.identity(location)
        if earlier is not None and identity is not None and (found := earlier.by_identity(video, identity)):
            return found.outcome, _origin(video, identity, found.sha256), True
        with sources.local_file(location) as path:
            sha256 = sources.content_hash(path) if earlier is not None else None
            if earlier is not None and sha256 is not None and (found := earlier.by_content(video, sha256)):
                return found.outcome, _origin(video, identity, sha256), True
            outcome = process.decode(path, video.start_seconds, video.end_seconds)
            sha256 = outcome.row.get("content_sha256") or sha256 or sources.content_hash(path)
    except sources.FetchError as failure:
        outcome = Outcome(failure.reason, failure.detail)
    return outcome, _origin(video, identity, sha256), False


def _origin(video: Video, identity: sources.Identity | None, sha256: str | None) -> Origin:
    return Origin(video.uri, video.start_seconds, video.end_seconds, identity, sha256)


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
