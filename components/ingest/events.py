"""The event log of an ingest, ``events.jsonl``: one JSON line per event."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

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
    """Appends an event to the log of a task.

    Raises:
        OSError: The disk is full, or does not take the line for another reason.
    """
    now = time.time()
    stamp = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)), "seconds": round(now, 3)}
    task_folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"event": NAMES[type(event)], **stamp, **asdict(event)}) + "\n"
    with (task_folder / EVENTS).open("a+b") as stream:
        # A full disk may have torn the last line. This one must not continue it.
        torn = stream.tell() > 0 and _last_byte(stream) != b"\n"
        stream.write(b"\n" * torn + line.encode())


def _last_byte(stream: BinaryIO) -> bytes:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1)


@dataclass
class EventLog:
    """All events of a task, oldest first.

    Args:
        entries: The events. There are none before the first ingest.
        damaged: How many lines are no events, as a full disk leaves them.
    """

    entries: list[Entry]
    damaged: int


def read_events(task_folder: Path) -> EventLog:
    """Reads the log of a task. Damaged lines are counted and left out."""
    log = EventLog([], 0)
    for line in whole_lines(task_folder / EVENTS):
        if (entry := _entry(line)) is None:
            log.damaged += 1
        else:
            log.entries.append(entry)
    return log


def _entry(line: str) -> Entry | None:
    try:
        fields = json.loads(line)
        name, day, seconds = fields.pop("event"), fields.pop("time"), fields.pop("seconds")
        return Entry(str(name), str(day), float(seconds), KINDS[name](**fields))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def whole_lines(path: Path) -> list[str]:
    """Reads the whole lines of a file that another process may be writing. Without a file, there are none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.split("\n")[:-1] if line]
