"""How far an ingest is: a line on the terminal, an event log, and the answer to ``--status``.

The task of a shard notes each video in a file of the working state, which all machines share; the driver and
``--status`` read those of the shards in work. Everything else is one JSON line per event in ``events.jsonl``:
``started``, ``decoding``, ``video failed``, ``shard done``, ``finished``, ``failed`` and ``interrupted``.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from components.frames import schema

log = logging.getLogger(__name__)

EVENTS = "events.jsonl"
LOG_EVERY_SECONDS = 30.0


def write_event(task_folder: Path, event: str, **fields: Any) -> None:
    """Appends an event with the time of day in UTC and the time in seconds since 1970."""
    now = time.time()
    stamp = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)), "seconds": round(now, 3)}
    task_folder.mkdir(parents=True, exist_ok=True)
    with (task_folder / EVENTS).open("a") as stream:
        stream.write(json.dumps({"event": event, **stamp, **fields}) + "\n")


class Notes:
    """What the task of a shard writes: a line per video.

    Args:
        path: replaced, since a task that starts again starts from the first video.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: TextIO = path.open("w")

    def __enter__(self) -> Notes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def __call__(self, row: Mapping[str, Any], reused: bool) -> None:
        """Notes a video's ledger row."""
        line = {"video_id": row["video_id"], "reason": row["reason"], "detail": row["detail"], "reused": reused}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may be written at this moment; none where there is no file."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@dataclass
class Count:
    """Videos so far.

    Args:
        total: of the manifest.
        found: in shards that were finished before.
        tried: decoded, or failed to be, by this run.
        reused: taken from earlier runs.
        failed: under each reason, in the whole store.
        seconds: since decoding began.
    """

    total: int
    found: int = 0
    tried: int = 0
    reused: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """Videos that need nothing more."""
        return self.found + self.tried + self.reused

    def add(self, line: Mapping[str, Any]) -> None:
        """Counts a video's line of :class:`Notes`."""
        self.tried += not line["reused"]
        self.reused += bool(line["reused"])
        if line["reason"]:
            self.failed[line["reason"]] += 1

    def text(self) -> str:
        """One line: done, failed, per second, time left."""
        share = f"{self.done} of {self.total} videos, {self.failed.total()} failed"
        new = self.done - self.found
        if not new or self.seconds <= 0:
            return share
        rate = new / self.seconds
        left = f", {_duration((self.total - self.done) / rate)} left" if self.done < self.total else ""
        return f"{share}, {rate:.1f} per second{left}"


class Watch:
    """Follows a run from the driver: prints, and logs failed videos, while a ``with`` block lasts.

    Args:
        task_folder: of the working state.
        progress_folder: where the tasks' files are.
        count: videos in finished shards; goes up.
        name: of the task, for the line.
    """

    def __init__(self, task_folder: Path, progress_folder: Path, count: Count, name: str) -> None:
        self._task_folder = task_folder
        self._progress_folder = progress_folder
        self._whole = count
        self._name = name
        self._reported: set[str] = set()
        self._start = self._logged = time.monotonic()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest-progress", daemon=True)
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        if self._is_terminal:
            sys.stderr.write("\n")

    def shard_done(self, number: int, seconds: float) -> None:
        """Counts the videos of a finished shard for good."""
        with self._lock:
            file = self._progress_folder / f"{number:05d}.jsonl"
            lines = self._report(read_lines(file))
            file.unlink(missing_ok=True)
            for line in lines:
                self._whole.add(line)
            failed = sum(bool(line["reason"]) for line in lines)
            reused = sum(line["reused"] for line in lines)
            fields = {"shard": number, "videos": len(lines), "failed": failed, "reused": reused}
            write_event(self._task_folder, "shard done", **fields, shard_seconds=seconds)
        self._show(force=True)

    def count(self) -> Count:
        """Videos of finished shards and of those in work."""
        with self._lock:
            found = with_work(self._whole, self._report(in_work(self._progress_folder)))
        found.seconds = time.monotonic() - self._start
        return found

    def _report(self, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for line in lines:
            if line["reason"] and line["video_id"] not in self._reported:
                self._reported.add(line["video_id"])
                fields = {key: line[key] for key in ("video_id", "reason", "detail", "reused")}
                write_event(self._task_folder, "video failed", **fields)
        return lines

    def _run(self) -> None:
        while not self._end.wait(1.0):
            self._show()

    def _show(self, force: bool = False) -> None:
        text = f"{self._name}: {self.count().text()}"
        if self._is_terminal:
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()
        elif force or time.monotonic() - self._logged >= LOG_EVERY_SECONDS:
            self._logged = time.monotonic()
            log.info("%s", text)


def in_work(progress_folder: Path) -> list[dict[str, Any]]:
    """The lines of all shards in work."""
    return [line for file in sorted(progress_folder.glob("*.jsonl")) for line in read_lines(file)]


def with_work(whole: Count, lines: Iterable[Mapping[str, Any]]) -> Count:
    """``whole`` and the videos of ``lines``."""
    found = replace(whole, failed=Counter(whole.failed))
    for line in lines:
        found.add(line)
    return found


def started(task_folder: Path, state: str, count: Count) -> None:
    """Logs that this process begins, with what :func:`status` needs to know of it."""
    fields = {"total": count.total, "found": count.found, "found_failed": dict(count.failed), "state": state}
    process = {"host": socket.gethostname(), "pid": os.getpid(), "pid_start": _start_of(os.getpid())}
    write_event(task_folder, "started", **fields, **process)


def status(task_folder: Path) -> str:
    """The last run of a task in words: running, finished, failed or interrupted; done, failed, rate, time left.

    Needs neither Ray nor the lock, and disturbs nothing.
    """
    events: list[dict[str, Any]] = []
    for event in read_lines(task_folder / EVENTS):
        events = [event] if event["event"] == "started" else [*events, event]
    if not events:
        return f"{task_folder.name}: never ingested here"
    first, last = events[0], events[-1]
    count = Count(first["total"], first["found"], failed=Counter(first["found_failed"]))
    begun = first["seconds"]
    for event in events:
        if event["event"] == "decoding":
            begun = event["seconds"]
        elif event["event"] == "shard done":
            count.tried += event["videos"] - event["reused"]
            count.reused += event["reused"]
        elif event["event"] == "video failed":
            count.failed[event["reason"]] += 1
    state = last["event"] if last["event"] in ("finished", "failed", "interrupted") else _is_running(first)
    failed = Counter(count.failed)
    count = with_work(count, in_work(task_folder / first["state"] / "progress"))
    count.failed = failed  # those in work are in the log too
    count.seconds = (time.time() if state.startswith("running") else last["seconds"]) - begun
    lines = [f"{task_folder.name}: {state}; {count.text()}", f"  last event: {last['event']} at {last['time']}"]
    lines += [f"  {reason} {number} ({schema.REASONS[reason]})" for reason, number in sorted(count.failed.items())]
    if state == "interrupted":
        lines.append("  the same command goes on from there")
    return "\n".join(lines)


def _is_running(first: Mapping[str, Any]) -> str:
    """Whether the process that logged ``first`` lives; that of another machine cannot be asked."""
    if first["host"] != socket.gethostname():
        return f"running or interrupted, on {first['host']} as process {first['pid']}"
    alive = first["pid_start"] == _start_of(first["pid"])
    return f"running as process {first['pid']}" if alive else "interrupted"


def _start_of(pid: int) -> str | None:
    """When a process started, in the kernel's ticks: a process id alone may belong to a later one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
