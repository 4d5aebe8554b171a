"""Whether the process that wrote its identity down still runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components import liveness

HERE = liveness.identity()
PRINTS = "from components.liveness import identity; print(identity(), flush=True); input()"


def start() -> tuple[subprocess.Popen[str], str]:
    """Another process and its identity; it ends when its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_this_process_is_alive() -> None:
    assert liveness.is_alive(liveness.identity())
    assert liveness.identity() == HERE


def test_another_process_is_alive_until_it_ends() -> None:
    process, identity = start()
    assert identity != HERE
    assert liveness.is_alive(identity)
    process.kill()
    # Dead, though its parent has not collected its status yet.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not liveness.is_alive(identity)
    process.communicate()
    assert not liveness.is_alive(identity)


def test_a_later_process_with_the_same_id_is_another_one() -> None:
    place, pid, _ = HERE.split("/")
    assert not liveness.is_alive(f"{place}/{pid}/1")


@pytest.mark.parametrize("text", ["", "7", "{pid}", "//", "-/x/None", "/{pid}/None", "a/1/2"])
def test_text_that_is_no_identity_is_not_alive(text: str) -> None:
    assert not liveness.is_alive(text.format(pid=os.getpid()))


def test_another_boot_or_container_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert boot in HERE
    assert not liveness.is_alive(HERE.replace(boot, "0" * 8))
    monkeypatch.setattr(os, "readlink", lambda path: "pid:[1]")
    assert not liveness.is_alive(HERE)
