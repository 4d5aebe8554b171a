"""How far an ingest has come, from the files of a run that runs, was killed, or ended."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios
import time
from collections import Counter
from pathlib import Path

import pytest

from components.ingest import events, progress
from components.ingest.progress import Monitor, ShardLog, VideoCounts, status
from components.ingest.records import LedgerRow

GOOD = LedgerRow("good", "test", "decoded", "", "", "pyav", 0, frames=4, shard=2, row=0)
FAILED = LedgerRow("bad", "test", "failed", "timeout", "30 s", "pyav", None, frames=0, shard=2, row=None)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task. This process ingests it, has found 4 of 10 videos, and works on shard 2."""
    folder = tmp_path / "clips"
    progress.log_start(folder, "state", VideoCounts(10, found=4, failed=Counter(missing_file=1)))
    events.write_event(folder, events.Decoding(6))
    with ShardLog(folder / "state" / "progress" / "00002.jsonl") as log_video:
        log_video(GOOD, False)
        log_video(FAILED, False)
        log_video(GOOD, True)
    return folder


def no_room() -> str:
    return "the cluster has 4, of which 0 are free"


def names(task: Path) -> list[str]:
    return [entry.name for entry in events.read_events(task).entries]


def test_a_run_is_followed_video_by_video(task: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    unfinished = task / "state" / "progress"
    counts = VideoCounts(10, found=4, failed=Counter(missing_file=1))
    with Monitor(task, unfinished, counts, "clips", no_room) as monitor:
        found = monitor.counts()
        assert (found.done, found.tried, found.reused, found.failed) == (7, 2, 1, {"missing_file": 1, "timeout": 1})
        monitor.counts()  # a failure is logged once
        assert names(task) == ["started", "decoding", "video failed"]
        assert status(task).splitlines()[0].startswith(f"clips: running as process {os.getpid()}; 7 of 10 videos, 2 fa")
        monitor.shard_done(2, 1.5)
        assert monitor.counts().done == 7
    assert names(task) == ["started", "decoding", "video failed", "shard done"]
    assert not list(unfinished.iterdir())
    assert "clips: 7 of 10 videos, 2 failed, " in caplog.text
    text = status(task)
    assert "7 of 10 videos, 2 failed" in text
    assert "\n  missing_file 1 (no file under the manifest's uri)\n  timeout 1 (" in text
    events.write_event(task, events.Finished(8, 2, "somewhere"))
    assert status(task).startswith("clips: finished; 7 of 10 videos, 2 failed")


def test_what_is_waited_for_is_said_again_and_again(
    task: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "WAITING_SECONDS", 0.0)
    unfinished = task / "state" / "progress"
    with Monitor(task, unfinished, VideoCounts(10, found=4), "clips", no_room) as monitor:
        wait_for(caplog, "clips: no video has ended for 0 s; 1 process(es) decode")
        monitor.shard_done(2, 1.5)
        wait_for(caplog, "waiting for a CPU: the cluster has 4, of which 0 are free")
        caplog.clear()
        wait_for(caplog, "waiting for a CPU: the cluster has 4, of which 0 are free")
        # As long as videos end, nothing is waited for.
        monkeypatch.setattr(progress, "WAITING_SECONDS", 600.0)
        time.sleep(0.1)
        caplog.clear()
        time.sleep(1.5)
    assert "waiting" not in caplog.text


def wait_for(caplog: pytest.LogCaptureFixture, text: str) -> None:
    end = time.monotonic() + 30
    while text not in caplog.text:
        assert time.monotonic() < end, caplog.text
        time.sleep(0.05)


def test_a_shard_that_starts_again_counts_once(task: Path) -> None:
    with ShardLog(task / "state" / "progress" / "00002.jsonl") as log_video:
        log_video(GOOD, False)
    with (task / "state" / "progress" / "00002.jsonl").open("a") as stream:
        stream.write('{"half')
    assert status(task).splitlines()[0].split("; ")[1].startswith("5 of 10 videos")


def test_a_killed_run_is_distinguished_from_a_running_one(task: Path) -> None:
    lines = [json.loads(line) for line in (task / events.EVENTS).read_text().splitlines()]
    process = lines[0]["process"]
    for change, expected in (
        ({"process": process.rpartition("/")[0] + "/1"}, "clips: interrupted; 7 of 10"),  # another process has its id
        ({"host": "elsewhere"}, f"clips: running or interrupted, on elsewhere as process {os.getpid()}; 7 of 10"),
    ):
        changed = [{**lines[0], **change}, *lines[1:]]
        (task / events.EVENTS).write_text("".join(json.dumps(line) + "\n" for line in changed))
        assert status(task).startswith(expected)
    assert status(task / "other") == "other: never ingested here"


OLD_LOG = """\
{"event": "started", "time": "2026-01-02T03:04:05Z", "seconds": 100.0, "total": 3, "found": 0, "found_failed": {}, \
"state": "state", "host": "h", "pid": 7, "pid_start": "5"}
{"event": "decoding", "time": "2026-01-02T03:04:06Z", "seconds": 101.0, "videos": 3}
{"event": "video failed", "time": "2026-01-02T03:04:07Z", "seconds": 102.0, "video_id": "v", "reason": "timeout", \
"detail": "30 s", "reused": false}
{"event": "shard done", "time": "2026-01-02T03:04:08Z", "seconds": 103.0, "shard": 0, "videos": 3, "failed": 1, \
"reused": 1, "shard_seconds": 1.5}
{"event": "finished", "time": "2026-01-02T03:04:08Z", "seconds": 103.0, "decoded": 2, "tried": 2, "store": "s"}
"""


def test_the_log_of_an_earlier_release_is_read_and_its_format_is_kept(tmp_path: Path) -> None:
    (tmp_path / events.EVENTS).write_text(OLD_LOG)
    lines = status(tmp_path).splitlines()
    assert lines[0].endswith(": finished; 3 of 3 videos, 1 failed, 1.5 per second")
    assert lines[1] == "  last event: finished at 2026-01-02T03:04:08Z"
    for entry in events.read_events(tmp_path).entries:
        events.write_event(tmp_path / "new", entry.event)
    old, new = ([json.loads(line) for line in (place / events.EVENTS).open()] for place in (tmp_path, tmp_path / "new"))
    for before, after in zip(old, new, strict=True):
        assert {key: after[key] for key in before} == {**before, "time": after["time"], "seconds": after["seconds"]}
        assert set(after) - set(before) <= {"process"}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (VideoCounts(10), "0 of 10 videos, 0 failed"),
        (VideoCounts(10, found=2, tried=2, seconds=4.0), "4 of 10 videos, 0 failed, 0.5 per second, 12 s left"),
        (VideoCounts(900, tried=1, reused=1, seconds=1.0), "2 of 900 videos, 0 failed, 2.0 per second, 7 min left"),
        (VideoCounts(90_000, tried=2, seconds=1.0), "2 of 90000 videos, 0 failed, 2.0 per second, 12.5 h left"),
        (VideoCounts(2, tried=2, seconds=1.0), "2 of 2 videos, 0 failed, 2.0 per second"),
    ],
)
def test_one_line_says_it(counts: VideoCounts, expected: str) -> None:
    assert counts.text() == expected


SHOWN = """
import sys, time
from pathlib import Path
from components.ingest.progress import Monitor, VideoCounts
with Monitor(Path(sys.argv[1]), Path(sys.argv[1]) / "state" / "progress", VideoCounts(10), "clips", str) as monitor:
    monitor.shard_done(2, 1.0)
"""


def test_a_terminal_has_one_line_that_changes(task: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    subprocess.run([sys.executable, "-c", SHOWN, str(task)], stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert shown.startswith("\rclips:   0%|")
    last = shown.rstrip().rpartition("\r")[2]
    assert last.startswith("clips:  30%|")
    assert " 3/10 [" in last
    assert last.endswith("failed=1]")
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
