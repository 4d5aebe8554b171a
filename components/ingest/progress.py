"""How far an ingest has come: a bar on the terminal, the event log, and the answer to ``--status``.

The task of a shard logs each video in a file of the working state, which all machines share. The driver and
``--status`` read the files of the unfinished shards. Everything else is in the event log
(:mod:`components.ingest.events`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from components import liveness
from components.frames import schema
from components.ingest import events
from components.ingest.events import Entry, Started
from components.ingest.records import LedgerRow

log = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 30.0

# A line says what is waited for after so long without a video, and again after as long.
WAITING_SECONDS = 60.0
ENDS = ("finished", "failed", "interrupted")


@dataclass(frozen=True)
class VideoLine:
    """A video in the log of its shard.

    Args:
        video_id, reason, detail: The same as in the video's ledger row.
        reused: Whether the row was copied from an earlier run.
    """

    video_id: str
    reason: str
    detail: str
    reused: bool


class ShardLog:
    """The log of an unfinished shard, written by its task: one line per video.

    Args:
        path: Where to write the log. An existing file is replaced, since a task that starts again starts from the
            first video.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: TextIO = path.open("w")

    def __enter__(self) -> ShardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def __call__(self, row: LedgerRow, reused: bool) -> None:
        """Logs a video."""
        line = VideoLine(row.video_id, row.reason, row.detail, reused)
        self._stream.write(json.dumps(asdict(line)) + "\n")
        self._stream.flush()


def read_shard_log(path: Path) -> list[VideoLine]:
    """Reads the log of a shard, without lines that a full disk tore. It is empty if there is no file."""
    return [line for text in events.whole_lines(path) if (line := _video_line(text)) is not None]


def _video_line(text: str) -> VideoLine | None:
    try:
        return VideoLine(**json.loads(text))
    except (ValueError, TypeError):
        return None


@dataclass
class VideoCounts:
    """Videos so far.

    Args:
        total: Videos of the manifest.
        found: Videos in shards that were finished before.
        tried: Videos that this run decoded, or that failed in it.
        reused: Videos copied from earlier runs.
        failed: Failed videos of the whole store, by reason.
        seconds: Time since decoding began.
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

    def add(self, line: VideoLine) -> None:
        """Counts a video."""
        self.tried += not line.reused
        self.reused += line.reused
        if line.reason:
            self.failed[line.reason] += 1

    def plus(self, lines: Iterable[VideoLine]) -> VideoCounts:
        """Returns these counts and those of ``lines``."""
        both = replace(self, failed=Counter(self.failed))
        for line in lines:
            both.add(line)
        return both

    def text(self) -> str:
        """Describes the counts in one line: done, failed, per second, time left."""
        counts = f"{self.done} of {self.total} videos, {self.failed.total()} failed"
        new = self.done - self.found
        if not new or self.seconds <= 0:
            return counts
        rate = new / self.seconds
        left = f", {_duration((self.total - self.done) / rate)} left" if self.done < self.total else ""
        return f"{counts}, {rate:.1f} per second{left}"


class Monitor:
    """Follows a run from the driver, while a ``with`` block lasts: shows how far it is, and logs failed videos.

    On a terminal it shows a bar. Elsewhere it logs a line for every shard, and every :data:`LOG_EVERY_SECONDS`. While
    no video ends, it logs each minute what is waited for.

    Args:
        task_folder: The task's folder in the working state.
        progress_folder: Where the tasks write the logs of their shards.
        counts: Videos in finished shards. The monitor adds to them.
        name: The task's name.
        room: Says how many CPUs there are, and how many are free.
    """

    def __init__(
        self, task_folder: Path, progress_folder: Path, counts: VideoCounts, name: str, room: Callable[[], str]
    ) -> None:
        self._task_folder = task_folder
        self._progress_folder = progress_folder
        self._finished = counts
        self._name = name
        self._room = room
        self._reported: set[str] = set()
        self._start = self._logged = self._ended = self._said = time.monotonic()
        self._done = counts.done
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest-progress", daemon=True)
        # `disable=None` shows nothing unless stderr is a terminal.
        self._bar = tqdm(desc=name, total=counts.total, initial=counts.found, unit=" videos", disable=None)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._bar.close()

    def shard_done(self, number: int, seconds: float) -> None:
        """Counts the videos of a finished shard for good."""
        with self._lock:
            file = self._progress_folder / f"{number:05d}.jsonl"
            lines = self._report(read_shard_log(file))
            file.unlink(missing_ok=True)
            for line in lines:
                self._finished.add(line)
            failed = sum(bool(line.reason) for line in lines)
            reused = sum(line.reused for line in lines)
            events.write_event(self._task_folder, events.ShardDone(number, len(lines), failed, reused, seconds))
        self._show(force=True)

    def counts(self) -> VideoCounts:
        """Counts the videos of finished and unfinished shards."""
        with self._lock:
            counts = self._finished.plus(self._report(read_shard_logs(self._progress_folder)))
        counts.seconds = time.monotonic() - self._start
        return counts

    def _report(self, lines: list[VideoLine]) -> list[VideoLine]:
        for line in lines:
            if line.reason and line.video_id not in self._reported:
                events.write_event(self._task_folder, events.VideoFailed(**asdict(line)))
                self._reported.add(line.video_id)
        return lines

    def _run(self) -> None:
        while not self._end.wait(1.0):
            # A full disk ends the run in the driver's thread, which writes to the same file.
            with contextlib.suppress(OSError):
                self._show()

    def _show(self, force: bool = False) -> None:
        counts = self.counts()
        self._say_what_is_waited_for(counts.done)
        if not self._bar.disable:
            self._bar.n = counts.done
            self._bar.set_postfix(failed=counts.failed.total())
        elif force or time.monotonic() - self._logged >= LOG_EVERY_SECONDS:
            self._logged = time.monotonic()
            log.info("%s: %s", self._name, counts.text())

    def _say_what_is_waited_for(self, done: int) -> None:
        now = time.monotonic()
        if done != self._done:
            self._done, self._ended, self._said = done, now, now
        if now - self._said < WAITING_SECONDS:
            return
        self._said = now
        begun = len(list(self._progress_folder.glob("*.jsonl")))
        try:
            text = f"{begun} process(es) decode" if begun else f"waiting for a CPU: {self._room()}"
        except Exception as error:  # the cluster has gone, and whoever uses it says so
            log.debug("the cluster does not say what is free: %s", error)
            return
        log.warning("%s: no video has ended for %s; %s", self._name, _duration(now - self._ended), text)


def read_shard_logs(progress_folder: Path) -> list[VideoLine]:
    """Reads the logs of all unfinished shards."""
    return [line for file in sorted(progress_folder.glob("*.jsonl")) for line in read_shard_log(file)]


def log_start(task_folder: Path, state: str, counts: VideoCounts) -> None:
    """Logs that this process begins, with everything that :func:`status` needs to know about it."""
    events.write_event(task_folder, Started.here(counts.total, counts.found, dict(counts.failed), state))


def status(task_folder: Path) -> str:
    """Describes a task's last run: whether it runs, finished, failed or was interrupted, and how far it came.

    This needs neither Ray nor the task's lock, and disturbs nothing.
    """
    start: Started | None = None
    entries: list[Entry] = []
    logged = events.read_events(task_folder)
    for entry in logged.entries:
        if isinstance(entry.event, Started):
            start, entries = entry.event, []
        entries.append(entry)
    if start is None:
        return f"{task_folder.name}: never ingested here"
    last = entries[-1]
    state = last.name if last.name in ENDS else _is_running(start)
    counts = _logged_counts(start, entries)
    # The log already has the failures of unfinished shards.
    unfinished = replace(counts.plus(read_shard_logs(task_folder / start.state / "progress")), failed=counts.failed)
    begin = next((entry.seconds for entry in entries if isinstance(entry.event, events.Decoding)), entries[0].seconds)
    unfinished.seconds = (time.time() if state.startswith("running") else last.seconds) - begin
    lines = [f"{task_folder.name}: {state}; {unfinished.text()}", f"  last event: {last.name} at {last.time}"]
    lines += [f"  {reason} {number} ({schema.REASONS[reason]})" for reason, number in sorted(counts.failed.items())]
    if logged.damaged:
        place = task_folder / events.EVENTS
        lines.append(f"  {logged.damaged} damaged lines of {place} are left out; a full disk leaves such lines")
    if state == "interrupted":
        lines.append("  the same command continues from there")
    return "\n".join(lines)


def _logged_counts(start: Started, entries: Iterable[Entry]) -> VideoCounts:
    counts = VideoCounts(start.total, start.found, failed=Counter(start.found_failed))
    for entry in entries:
        if isinstance(entry.event, events.ShardDone):
            counts.tried += entry.event.videos - entry.event.reused
            counts.reused += entry.event.reused
        elif isinstance(entry.event, events.VideoFailed):
            counts.failed[entry.event.reason] += 1
    return counts


def _is_running(start: Started) -> str:
    """Says whether the process that logged ``start`` runs. A process of another machine cannot be asked."""
    if start.host != socket.gethostname():
        return f"running or interrupted, on {start.host} as process {start.pid}"
    return f"running as process {start.pid}" if liveness.is_alive(start.process) else "interrupted"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
