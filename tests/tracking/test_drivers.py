"""A run is continued when its driver is gone, and never done twice at once, on one host and across containers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from empty_store import write_empty_store
from test_runs import SETTINGS, start

from components import liveness
from components.errors import RegistryError
from components.tracking import drivers, store

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = "another-boot-pid:[1]/1/7"
HERE = socket.gethostname()


def now(seconds: float = 0.0) -> str:
    return str(time.time() + seconds)


@pytest.mark.parametrize(
    ("tags", "other_work", "same_work"),
    [
        ({"process": liveness.identity()}, True, True),
        ({"process": liveness.identity().rpartition("/")[0] + "/1"}, False, False),
        # Another container or machine that beats, that has stopped, or that has beaten long ago.
        ({"process": ELSEWHERE, "host": "pod-7", "heartbeat": "now"}, True, False),
        ({"process": ELSEWHERE, "host": HERE, "heartbeat": "now"}, True, False),
        ({"process": ELSEWHERE, "host": "pod-7", "heartbeat": "an hour ago"}, False, False),
        ({"process": ELSEWHERE, "host": "pod-7", "heartbeat": "edited"}, False, False),
        # Without a heartbeat: an earlier release, or a trial.
        ({"process": ELSEWHERE, "host": HERE}, False, False),
        ({"process": ELSEWHERE, "host": "pod-7"}, True, False),
        ({"pid": str(os.getpid()), "host": HERE}, True, True),
        ({"pid": "999999999", "host": HERE}, False, False),
        ({"pid": "999999999", "host": "pod-7"}, True, True),
    ],
)
def test_signs_of_life(
    monkeypatch: pytest.MonkeyPatch, tags: dict[str, str], other_work: bool, same_work: bool
) -> None:
    monkeypatch.setattr(drivers, "BEAT_SECONDS", 0.01)
    # Not at collection, which may be long ago.
    times = {"now": now(), "an hour ago": now(-3600)}
    tags = {name: times.get(value, value) for name, value in tags.items()}
    assert drivers.has_driver(tags, is_same_work=False, look=lambda: tags) == other_work
    assert drivers.has_driver(tags, is_same_work=True, look=lambda: tags) == same_work


def test_a_driver_that_beats_is_alive_whatever_its_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "BEAT_SECONDS", 0.01)
    tags = {"process": ELSEWHERE, "host": "pod-7", "heartbeat": now(-600)}
    assert drivers.has_driver(tags, is_same_work=True, look=lambda: {"heartbeat": now(-599)})


def test_the_same_work_is_not_begun_twice(tmp_path: Path) -> None:
    write_empty_store(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=ENV
    )
    assert child.stdout is not None
    run_id = child.stdout.readline().strip()
    try:
        with pytest.raises(
            RegistryError, match=rf"run {run_id}: the same work is running already.*process {child.pid}"
        ):
            start(tmp_path, resume="the work")
    finally:
        child.kill()
        child.wait()
    with start(tmp_path, resume="the work") as again:
        assert again.run_id == run_id


ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
CHILD = """
import socket, sys, time
from pathlib import Path
from components.tracking import drivers
from tests.tracking.test_runs import start
drivers.BEAT_SECONDS = 1.0
if len(sys.argv) > 2:
    socket.sethostname(sys.argv[2])
with start(Path(sys.argv[1]), resume="the work") as run:
    print(run.run_id, flush=True)
    time.sleep(600)
"""
CONTAINER = ["unshare", "--pid", "--uts", "--fork", "--mount-proc", "--kill-child"]


def can_unshare() -> bool:
    return shutil.which("unshare") is not None and subprocess.run([*CONTAINER, "true"], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_unshare(), reason="no permission for namespaces")
@pytest.mark.parametrize("hosts", [("same", "same"), ("pod-1", "pod-2")])
def test_a_driver_killed_in_a_container_is_continued_in_the_next(tmp_path: Path, hosts: tuple[str, str]) -> None:
    write_empty_store(tmp_path)
    found = []
    for host in hosts:
        command = [*CONTAINER, sys.executable, "-c", CHILD, str(tmp_path), host]
        container = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=ENV)
        assert container.stdout is not None
        found.append(container.stdout.readline().strip())
        time.sleep(1.5)  # for a heartbeat
        container.send_signal(signal.SIGKILL)
        container.wait()
    assert found[0] == found[1] != ""
    client = store.connect(tmp_path, SETTINGS)
    assert len(client.search_runs([store.experiment_id(client, "tiny")])) == 1
