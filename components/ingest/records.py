"""The records of an ingest: its settings, its shards, and what became of each video."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from components.ingest.isolation import DecodeProcess, Recipe
from components.ingest.limits import processor_time
from components.video import Video

# Size in bytes and modification time in nanoseconds of a file when it was looked at.
Identity = tuple[int, int]

# Reasons that lie outside the file.
NOT_FETCHED = "not_fetched"
CHANGED = "changed_while_read"

# Signals that a process raises by itself when it runs into a fault. All others come from outside.
OWN_SIGNALS = ("SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")


@dataclass(frozen=True)
class Limits:
    """The settings that decide, together with the file, whether a video fails. Other limits call for another try."""

    time_limit_seconds: float
    memory_limit_mib: int


def is_transient(reason: str, detail: str, limits: Limits) -> bool:
    """Whether a failure may be a state of the machine instead of a property of the file. The next run tries again.

    A failure under a limit is a property of the file if the file alone can pass the limit: processor time, and memory
    of the decoding process. A crash is one if the process caused it itself. Time asleep or of the wall clock, and
    memory that the machine does not have, may be another's fault.

    Args:
        reason, detail: The ledger row's.
        limits: The limits under which the video was decoded.
    """
    if reason == "timeout":
        return detail != processor_time(limits.time_limit_seconds)
    if reason == "out_of_memory":
        return detail != f"{limits.memory_limit_mib} MiB"
    if reason == "crashed":
        return detail.startswith("SIG") and detail not in OWN_SIGNALS
    return reason in (NOT_FETCHED, CHANGED)


@dataclass(frozen=True)
class Settings:
    """Everything that the bytes of a store depend on, apart from the manifest, the videos and the libraries.

    Args:
        recipe: How the decoding process makes frames.
        decoder: The decoder's name in params.yaml.
        shard_videos: Videos per shard.
        row_group_videos: Videos per row group of a shard.
        time_limit_seconds: Processor time per video, see :mod:`components.ingest.limits`.
        memory_limit_mib: Memory of the decoding process.
    """

    recipe: Recipe
    decoder: str
    shard_videos: int
    row_group_videos: int
    time_limit_seconds: float
    memory_limit_mib: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as one flat mapping, under the names of params.yaml."""
        flat = asdict(self)
        flat.pop("recipe")
        return {**self.recipe.to_dict(), **flat}

    def process(self) -> DecodeProcess:
        """Creates a decoding process with these settings."""
        return DecodeProcess(self.recipe, self.time_limit_seconds, self.memory_limit_mib)

    def limits(self) -> Limits:
        """Returns the limits of the decoding process."""
        return Limits(self.time_limit_seconds, self.memory_limit_mib)

    def row_key(self) -> str:
        """Returns, as text, the settings that a video's row depends on. Changing any other needs no decoding."""
        return json.dumps([self.recipe.to_dict(), self.decoder])


@dataclass(frozen=True)
class Shard:
    """Videos that one task decodes into one file."""

    number: int
    videos: tuple[Video, ...]

    def to_row(self) -> dict[str, Any]:
        """Returns the shard as a row of a Ray data set, without captions, which the task does not need.

        The videos become text, since Arrow would guess a different type for every mix of missing values.
        """
        videos = [(v.video_id, v.uri, v.split, v.start_seconds, v.end_seconds) for v in self.videos]
        return {"number": self.number, "videos": json.dumps(videos)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Shard:
        """Reads what :meth:`to_row` returned. The videos have no captions."""
        videos = (
            Video(video_id, uri, split, (), start, end)
            for video_id, uri, split, start, end in json.loads(row["videos"])
        )
        return cls(int(row["number"]), tuple(videos))


@dataclass(frozen=True)
class Origin:
    """What a video's frames were made from.

    Args:
        uri, start_seconds, end_seconds: The same as in the manifest.
        identity: Size and modification time of the file when it was read. None if there was no file.
        sha256: Hash of the file's content. None if it could not be read.
    """

    uri: str
    start_seconds: float | None
    end_seconds: float | None
    identity: Identity | None
    sha256: str | None


@dataclass(frozen=True)
class LedgerRow:
    """What became of one video: a row of :data:`components.frames.schema.LEDGER_SCHEMA`.

    Args:
        video_id, split: The same as in the manifest.
        status: ``decoded`` or ``failed``.
        reason: A key of :data:`components.frames.schema.REASONS`. Empty if the video was decoded.
        detail: Type of the exception, name of the signal, or the limit.
        decoder: Name and version of the decoder. For a failed video, its name in params.yaml.
        corrupt_frames: Frames that the decoder flagged as damaged. None if it cannot tell.
        frames: Stored frames.
        shard: Number of the shard.
        row: Row of the shard. None if the video failed.
    """

    video_id: str
    split: str
    status: str
    reason: str
    detail: str
    decoder: str
    corrupt_frames: int | None
    frames: int
    shard: int
    row: int | None


@dataclass(frozen=True)
class WindowRow:
    """A window that is stored in a shard.

    Args:
        video_id: The id of the video of which it is a window.
        start_seconds, end_seconds: Where it is in the file.
        frames: Stored frames.
        row: Row of the shard.
    """

    video_id: str
    start_seconds: float
    end_seconds: float
    frames: int
    row: int


@dataclass(frozen=True)
class DoneShard:
    """The record of a finished shard.

    Args:
        number: The shard's number.
        sha256: Hash of the shard's bytes.
        bytes, mtime_ns: Length and modification time of the shard's file.
        ledger: One row per video.
        origins: One origin per video.
        tried: Videos that were decoded, or failed. The frames of the others come from an earlier run.
        limits: The limits under which they were decoded.
        seconds: Wall clock that the shard took.
        windows: The windows of its videos.
        source_sha256: Hash of the bytes that the shard would have without its windows. None if it has no windows.
    """

    number: int
    sha256: str
    bytes: int
    mtime_ns: int
    ledger: list[LedgerRow]
    origins: list[Origin]
    tried: int
    limits: Limits
    seconds: float
    windows: list[WindowRow] = field(default_factory=list)
    source_sha256: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether no video is to be tried again. See :func:`is_transient`."""
        return not any(is_transient(row.reason, row.detail, self.limits) for row in self.ledger)
