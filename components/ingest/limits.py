"""How much time a process has used, and which files of ``/proc`` tell. A busy machine does not count against it.

Wall clock alone would let a video fail that decodes in a second on an idle machine. Processor time alone would wait
forever for a process that sleeps. So both are counted: processor time, and time in which every thread sleeps. Time in
which a thread waits for a processor or a disk is neither, and has only a generous limit.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

# Processor time or sleep per video is limited to the setting, wall clock to so many times the setting.
WALL_FACTOR = 30.0

# Between two looks a sleep counts at most this long. The one who looks may have waited for a processor too.
LONGEST_LOOK_SECONDS = 0.5

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class TimeLimitError(Exception):
    """A process has used more time than it may. The text says of which kind."""


class Clock:
    """Counts the time that a process uses from now on.

    Args:
        process: The process id.
        limit_seconds: The limit of processor time, and of sleep.
    """

    def __init__(self, process: int, limit_seconds: float) -> None:
        self._process = process
        self._limit_seconds = limit_seconds
        self._begin = self._looked = time.monotonic()
        self._busy_before = processor_seconds(process)
        self._asleep_seconds = 0.0

    def check(self) -> None:
        """Looks at the process. Call it often.

        Raises:
            TimeLimitError: The process is over a limit.
        """
        now = time.monotonic()
        if is_asleep(self._process):
            self._asleep_seconds += min(now - self._looked, LONGEST_LOOK_SECONDS)
        self._looked = now
        if processor_seconds(self._process) - self._busy_before >= self._limit_seconds:
            raise TimeLimitError(processor_time(self._limit_seconds))
        if self._asleep_seconds >= self._limit_seconds:
            raise TimeLimitError(f"{self._limit_seconds:g} s asleep")
        if now - self._begin >= WALL_FACTOR * self._limit_seconds:
            raise TimeLimitError(f"{WALL_FACTOR * self._limit_seconds:g} s of wall clock")


def processor_time(seconds: float) -> str:
    """Names the limit that only the video itself can pass."""
    return f"{seconds:g} s of processor time"


def processor_seconds(process: int) -> float:
    """Returns the processor time that all threads of a process used. It is 0 where there is no ``/proc``."""
    fields = _stat(Path(f"/proc/{process}/stat"))
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND if fields else 0.0


def is_asleep(process: int) -> bool:
    """Whether every thread of a process sleeps, other than for a disk. Always true where there is no ``/proc``."""
    if sys.platform != "linux":
        return True
    threads = Path(f"/proc/{process}/task")
    try:
        names = os.listdir(threads)
    except OSError:
        return False
    return all(not (fields := _stat(threads / name / "stat")) or fields[0] == "S" for name in names)


def _stat(path: Path) -> list[str]:
    """Reads the fields from the state on. Empty if there is no such process."""
    try:
        # The command's name comes second, in parentheses. It may contain spaces and parentheses.
        return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def held_mib(process: int) -> float:
    """Returns the memory that a process holds, resident and swapped, in MiB. It is 0 for a zombie."""
    if sys.platform != "linux":
        return 0.0
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("VmRSS:", "VmSwap:"))) / 1024
