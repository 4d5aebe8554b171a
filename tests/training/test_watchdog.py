"""A stuck rank is named in time, with its step and place. Nothing hangs, and no process is left."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import gloo
import psutil
import pytest
import torch
import torch.distributed as dist

from components.heartbeat import mark
from components.training import watchdog
from components.training.watchdog import EXIT_STATUS, Watchdog, place

SECONDS = 1.5
STEP = 3


def hold_the_lock() -> None:
    """Waits in C and keeps the interpreter's lock."""
    ctypes.PyDLL(None).sleep(600)


def sleep_in_python() -> None:
    time.sleep(600)


def stop_for_good() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def wait_for_the_other() -> None:
    """Waits for a message that rank 0 never sends."""
    dist.recv(torch.ones(1), src=0)


def steps(folder: Path, kind: str, stuck: int) -> str:
    """Makes five steps with a collective each. Rank ``stuck`` gets stuck in one of them."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    # Keeps the test short.
    watchdog.GRACE_SECONDS = 1.5
    if dist.is_initialized():
        # A log per process, as Ray's workers have.
        with (folder / f"log-{rank}").open("w") as stream:
            os.dup2(stream.fileno(), watchdog.STDERR)

    def report(text: str) -> None:
        (folder / f"report-{rank}").write_text(text)

    with Watchdog(SECONDS, report):
        for step in range(1, 6):
            mark(f"step {step}")
            if (rank, step) == (stuck, STEP):
                (folder / "stuck").touch()
                globals()[kind]()
            if dist.is_initialized():
                dist.all_reduce(torch.ones(1))
            time.sleep(0.05)
    return "done"


def reports(ranks: list[BaseProcess], folder: Path, limit_seconds: float = 90) -> list[str]:
    """What the ranks reported. All must end by themselves."""
    pids = [process.pid for process in ranks]
    deadline = time.monotonic() + limit_seconds
    try:
        for process in ranks:
            process.join(max(0.0, deadline - time.monotonic()))
        assert [process.exitcode for process in ranks if process.exitcode is None] == []
    finally:
        for process in ranks:
            process.kill()
    assert not [pid for pid in pids if pid is not None and psutil.pid_exists(pid)]
    return [path.read_text() for path in sorted(folder.glob("report-*"))]


@pytest.mark.slow
@pytest.mark.parametrize("stuck", [0, 1])
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("sleep_in_python", r", at \S*test_watchdog\.py:\d+ sleep_in_python"),
        ("hold_the_lock", " and does not answer"),
        ("stop_for_good", " and does not answer"),
    ],
)
def test_the_stuck_rank_is_named(tmp_path: Path, kind: str, how: str, stuck: int) -> None:
    """The error has its step, and its place if it answers. Rank 0 also keeps the store that the ranks use."""
    said = reports(gloo.launch(2, steps, tmp_path, tmp_path, kind, stuck), tmp_path)
    assert time.time() - (tmp_path / "stuck").stat().st_mtime < 15
    assert said
    for text in said:
        expected = (
            rf"rank {stuck} did not finish step {STEP} within 1\.5 s{how}; execution\.timeout_seconds is the limit"
        )
        assert re.fullmatch(expected, text), text
    if kind != "stop_for_good":
        # Even a process that cannot answer writes its stack.
        assert f"in {kind}" in (tmp_path / f"log-{stuck}").read_text()
    assert not list(tmp_path.glob("result-*"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "status"), [("sleep_in_python", EXIT_STATUS), ("hold_the_lock", 1)])
def test_a_single_process(tmp_path: Path, kind: str, status: int) -> None:
    """A process without a group writes the stacks of all its threads to stderr."""
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_watchdog as t; "
    program += f"t.steps(t.Path({str(tmp_path)!r}), {kind!r}, 0)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert f"in {kind}" in done.stderr
    assert "most recent call first" in done.stderr
    if kind == "sleep_in_python":
        text = (tmp_path / "report-0").read_text()
        assert text.startswith("rank 0 did not finish step 3 within 1.5 s, at ")
        assert f"error: {text}" in done.stderr


def test_all_wait_for_each_other(tmp_path: Path) -> None:
    """If all ranks wait in a collective, all are named."""
    said = reports(gloo.launch(2, steps, tmp_path, tmp_path, "wait_for_the_other", 1), tmp_path)
    assert said
    for text in said:
        assert "rank 0 did not finish step 3 within 1.5 s, at " in text
        assert "; rank 1 did not finish step 3 within 1.5 s, at " in text


def test_nothing_happens_in_time(tmp_path: Path) -> None:
    assert gloo.spawn(2, steps, tmp_path, tmp_path, "sleep_in_python", 7) == ["done", "done"]
    assert not list(tmp_path.glob("report-*"))
    mark("no watchdog, no matter")


def test_a_mark_is_cheap() -> None:
    with Watchdog(300, print):
        mark("step 1")
        started = time.process_time()
        for step in range(200):
            mark(f"step {step}")
        assert (time.process_time() - started) / 200 < 0.002


def test_places_are_short() -> None:
    package = str(Path(watchdog.__file__).parents[1])
    stack = [("/usr/lib/threading.py", 5, "wait"), (f"{package}/training/loop.py", 7, "train"), ("/x/y.py", 1, "main")]
    assert place(stack) == "/usr/lib/threading.py:5 wait < training/loop.py:7 train"
    assert place([]) == "an unknown place"
