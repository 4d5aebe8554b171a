"""How far an ingest is, from files that a run leaves: while it runs, when it was killed, when it ended."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from components.ingest import progress
from components.ingest.progress import Count, Notes, Watch, status

FAILED = {"video_id": "bad", "reason": "timeout", "detail": "30 s"}
GOOD = {"video_id": "good", "reason": "", "detail": ""}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task whose run, by this process, has found 4 of 10 videos, and works on the shard 2."""
    folder = tmp_path / "clips"
    progress.started(folder, "state", Count(10, found=4, failed=Counter(missing_file=1)))
    progress.write_event(folder, "decoding", videos=6)
    with Notes(folder / "state" / "progress" / "00002.jsonl") as note:
        note(GOOD, False)
        note(FAILED, False)
        note(GOOD, True)
    return folder


def events(task: Path) -> list[str]:
    return [line["event"] for line in progress.read_lines(task / progress.EVENTS)]


def test_a_run_is_followed_video_by_video(task: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    work = task / "state" / "progress"
    with Watch(task, work, Count(10, found=4, failed=Counter(missing_file=1)), "clips") as watch:
        found = watch.count()
        assert (found.done, found.tried, found.reused, found.failed) == (7, 2, 1, {"missing_file": 1, "timeout": 1})
        watch.count()  # a failure is logged once
        assert events(task) == ["started", "decoding", "video failed"]
        assert status(task).splitlines()[0].startswith(f"clips: running as process {os.getpid()}; 7 of 10 videos, 2 fa")
        watch.shard_done(2, 1.5)
        assert watch.count().done == 7
    assert events(task) == ["started", "decoding", "video failed", "shard done"]
    assert not list(work.iterdir())
    assert "clips: 7 of 10 videos, 2 failed, " in caplog.text
    text = status(task)
    assert "7 of 10 videos, 2 failed" in text
    assert "\n  missing_file 1 (no file under the manifest's uri)\n  timeout 1 (not done within frames" in text
    progress.write_event(task, "finished")
    assert status(task).startswith("clips: finished; 7 of 10 videos, 2 failed")


def test_a_shard_that_starts_again_counts_once(task: Path) -> None:
    with Notes(task / "state" / "progress" / "00002.jsonl") as note:
        note(GOOD, False)
    with (task / "state" / "progress" / "00002.jsonl").open("a") as stream:
        stream.write('{"half')
    assert status(task).splitlines()[0].split("; ")[1].startswith("5 of 10 videos")


def test_a_killed_run_is_told_from_a_running_one(task: Path) -> None:
    lines = progress.read_lines(task / progress.EVENTS)
    for change, expected in (
        ({"pid_start": "1"}, "clips: interrupted; 7 of 10"),  # the process id has gone to another process
        ({"host": "elsewhere"}, f"clips: running or interrupted, on elsewhere as process {os.getpid()}; 7 of 10"),
    ):
        changed = [{**lines[0], **change}, *lines[1:]]
        (task / progress.EVENTS).write_text("".join(json.dumps(line) + "\n" for line in changed))
        assert status(task).startswith(expected)
    assert status(task / "other") == "other: never ingested here"


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (Count(10), "0 of 10 videos, 0 failed"),
        (Count(10, found=2, tried=2, seconds=4.0), "4 of 10 videos, 0 failed, 0.5 per second, 12 s left"),
        (Count(900, tried=1, reused=1, seconds=1.0), "2 of 900 videos, 0 failed, 2.0 per second, 7 min left"),
        (Count(90_000, tried=2, seconds=1.0), "2 of 90000 videos, 0 failed, 2.0 per second, 12.5 h left"),
        (Count(2, tried=2, seconds=1.0), "2 of 2 videos, 0 failed, 2.0 per second"),
    ],
)
def test_one_line_says_it(count: Count, expected: str) -> None:
    assert count.text() == expected


SHOWN = """
import sys, time
from pathlib import Path
from components.ingest.progress import Count, Watch
with Watch(Path(sys.argv[1]), Path(sys.argv[1]) / "state" / "progress", Count(10), "clips") as watch:
    watch.shard_done(2, 1.0)
"""


def test_a_terminal_has_one_line_that_changes(task: Path) -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", SHOWN, str(task)], stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert shown.startswith("\r\x1b[Kclips: 3 of 10 videos, 1 failed, ")
    assert shown.endswith(" left\r\n")
    assert shown.count("\n") == 1
