"""A rank that is stuck is named, with step and place, in time; nothing hangs and no process is left."""

from __future__ import annotations

import ctypes
import json
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
from components.training.watchdog import EXIT_STATUS, Watchdog, foreign_stack, place

SECONDS = 1.5
STEP = 3


def hold_the_lock() -> None:
    """Waits in C without letting go of the interpreter's lock."""
    ctypes.PyDLL(None).sleep(600)


def sleep_in_python() -> None:
    time.sleep(600)


def stop_for_good() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def wait_for_the_other() -> None:
    """For what rank 0 never sends."""
    dist.recv(torch.ones(1), src=0)


def steps(folder: Path, kind: str, stuck: int) -> str:
    """Five steps with a collective each, in one of which rank ``stuck`` gets stuck."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    # The module's own: short, so that the test is.
    watchdog.GRACE_SECONDS = 1.5

    def report(text: str) -> None:
        (folder / f"report-{rank}").write_text(text)

    with Watchdog(SECONDS, report):
        for step in range(1, 6):
            mark(f"step {step}")
            if (rank, step) == (stuck, STEP):
                globals()[kind]()
            if dist.is_initialized():
                dist.all_reduce(torch.ones(1))
            time.sleep(0.05)
    return "done"


def reports(ranks: list[BaseProcess], folder: Path, limit_seconds: float = 30) -> list[str]:
    """What the ranks reported, once all have ended by themselves."""
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
    ("kind", "silent", "frame"),
    [
        ("sleep_in_python", "", r"\S*test_watchdog\.py:\d+ sleep_in_python"),
        ("hold_the_lock", " and does not answer", r"\S*test_watchdog\.py:\d+ hold_the_lock"),
        ("stop_for_good", " and does not answer", "an unknown place"),
    ],
)
def test_the_stuck_rank_is_named(tmp_path: Path, kind: str, silent: str, frame: str, stuck: int) -> None:
    """Rank 0 also keeps the store by which the ranks tell each other."""
    started = time.monotonic()
    ranks = gloo.launch(2, steps, tmp_path, tmp_path, kind, stuck)
    said = reports(ranks, tmp_path)
    assert time.monotonic() - started < 20
    assert said
    for text in said:
        expected = rf"rank {stuck} did not finish step {STEP} within 1\.5 s{silent}, at {frame}; training\.timeout.*"
        assert re.fullmatch(expected, text), text
    assert not list(tmp_path.glob("result-*"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "status"), [("sleep_in_python", EXIT_STATUS), ("hold_the_lock", 1)])
def test_alone(tmp_path: Path, kind: str, status: int) -> None:
    """One process without a group; the stacks of all threads go to its stderr, whoever writes them."""
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
    """Where everybody stands in a collective, everybody is named."""
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


def test_a_stack_of_another_process(tmp_path: Path) -> None:
    (tmp_path / "stacks").write_text(
        'Timeout (0:00:01)!\nThread 0x00000000000000aa (most recent call first):\n  File "/a/b.py", line 3 in f\n\n'
        'Thread 0x00000000000000bb (most recent call first):\n  File "/a/c.py", line 4 in g\n  File "d", line 5 in h\n'
    )
    assert foreign_stack(str(tmp_path / "stacks"), 0xBB) == [("/a/c.py", 4, "g"), ("d", 5, "h")]
    assert foreign_stack(str(tmp_path / "stacks"), 0xAA) == [("/a/b.py", 3, "f")]
    assert foreign_stack(str(tmp_path / "none"), 0xAA) == []
    assert json.dumps(Watchdog(1.0, print).address())
