"""The event log of an ingest, ``events.jsonl``: one JSON line per event."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from components import liveness

EVENTS = "events.jsonl"


@dataclass(frozen=True)
class Started:
    """A process began.

    Args:
        total: Videos of the manifest.
        found: Videos in shards that were finished before.
        found_failed: How many of them failed, by reason.
        state: Name of the working state's folder.
        host, pid, pid_start: The machine, the process id, and when the process started, in the kernel's clock ticks.
        process: What :func:`components.liveness.identity` returned. Empty in logs of release 0.1.
    """

    total: int
    found: int
    found_failed: dict[str, int]
    state: str
    host: str
    pid: int
    pid_start: str | None
    process: str = ""

    @classmethod
    def here(cls, total: int, found: int, found_failed: dict[str, int], state: str) -> Started:
        """Describes this process."""
        process = liveness.identity()
        start = process.rpartition("/")[2]
        return cls(total, found, found_failed, state, socket.gethostname(), os.getpid(), start, process)


@dataclass(frozen=True)
class Decoding:
    """Ray runs, and decoding begins."""

    videos: int


@dataclass(frozen=True)
class VideoFailed:
    """A video has no frames."""

    video_id: str
    reason: str
    detail: str
    reused: bool


@dataclass(frozen=True)
class ShardDone:
    """A shard is finished. The counts are those of its videos."""

    shard: int
    videos: int
    failed: int
    reused: int
    shard_seconds: float


@dataclass(frozen=True)
class Finished:
    """The store was published."""

    decoded: int
    tried: int
    store: str


@dataclass(frozen=True)
class Failed:
    """The run ended with an error."""

    error: str


@dataclass(frozen=True)
class Interrupted:
    """A signal ended the run."""

    signal: str


Event = Started | Decoding | VideoFailed | ShardDone | Finished | Failed | Interrupted

KINDS: dict[str, type[Event]] = {
    "started": Started,
    "decoding": Decoding,
    "video failed": VideoFailed,
    "shard done": ShardDone,
    "finished": Finished,
    "failed": Failed,
    "interrupted": Interrupted,
}
NAMES = {kind: name for name, kind in KINDS.items()}


@dataclass(frozen=True)
class Entry:
    """An event in the log.

    Args:
        name: A key of :data:`KINDS`.
        time: Time of day in UTC.
        seconds: The same, in seconds since 1970.
        event: The event.
    """

    name: str
    time: str
    seconds: float
    event: Event


def write_event(task_folder: Path, event: Event) -> None:
    """Appends an event to the log of a task."""
    now = time.time()
    stamp = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)), "seconds": round(now, 3)}
    task_folder.mkdir(parents=True, exist_ok=True)
    with (task_folder / EVENTS).open("a") as stream:
        stream.write(json.dumps({"event": NAMES[type(event)], **stamp, **asdict(event)}) + "\n")


def read_events(task_folder: Path) -> Iterator[Entry]:
    """Yields all events of a task, oldest first. There are none before its first ingest."""
    for line in whole_lines(task_folder / EVENTS):
        fields = json.loads(line)
        name, day, seconds = fields.pop("event"), fields.pop("time"), fields.pop("seconds")
        yield Entry(name, day, seconds, KINDS[name](**fields))


def whole_lines(path: Path) -> list[str]:
    """Reads the whole lines of a file that another process may be writing. Without a file, there are none."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
