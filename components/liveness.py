"""Whether the process that wrote something down still runs.

A process id alone does not tell: the kernel gives it to another process later. Id and start time together do, within
one boot of one machine and within one process namespace (a container has its own).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from components.errors import DataError


def identity() -> str:
    """Identifies this process, in a form that can be written down and given to :func:`is_alive` later."""
    pid = os.getpid()
    return f"{_place()}/{pid}/{_start_of(pid)}"


def is_alive(identity: str) -> bool:
    """Whether the process with this :func:`identity` still runs.

    False for a process of another machine, boot or container, which cannot be asked from here, for one that has ended
    but whose parent has not collected its status, and for text that is no identity.
    """
    place, _, process = identity.partition("/")
    pid, _, start = process.partition("/")
    return place == _place() and pid.isdecimal() and start == _start_of(int(pid))


def is_local(identity: str) -> bool:
    """Whether the process with this :func:`identity` is or was in this boot and container, so that it can be asked."""
    return identity.partition("/")[0] == _place()


def _place() -> str:
    """The boot and the process namespace in which this process's id is valid."""
    if sys.platform != "linux":
        return "-"  # start times hold the date there
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}-{os.readlink('/proc/self/ns/pid')}"


def _start_of(pid: int) -> str | None:
    """When a process started; None if it has ended."""
    if sys.platform != "linux":
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    try:
        # The command's name comes second, in parentheses. It may contain spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in ("Z", "X") else fields[19]  # in clock ticks since boot


@contextlib.contextmanager
def only_one(folder: Path, taken: str) -> Iterator[None]:
    """Holds the lock of a folder, which must exist, for the length of a ``with`` block.

    Args:
        folder: The folder, which gets a file ``lock``.
        taken: What to say if another process holds it.

    Raises:
        DataError: Another process holds it.
    """
    # The kernel frees this lock, whatever ends the process. A soft lock would survive a kill.
    lock = FileLock(folder / "lock", blocking=False, fallback_to_soft=False)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock)
        except Timeout:
            raise DataError(taken, where=folder) from None
        yield
