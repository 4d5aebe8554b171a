"""Candidates in separate processes that take turns, so that a busy minute of the machine affects all of them equally.

A benchmark script calls :func:`arguments` first, then :func:`measure`, which starts the script again per candidate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

# Time between two looks at the child processes. What a process uses after the last look is lost.
LOOK_SECONDS = 0.2

# What a candidate does in one turn.
Turn = Callable[[], object]


@dataclass
class Times:
    """The turns of one candidate.

    Args:
        wall: Seconds of each turn.
        cpu: Processor seconds of each turn, including children.
        base_mib: Resident memory before the first turn.
        peak_mib: Peak resident memory.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    base_mib: float = 0.0
    peak_mib: float = 0.0

    @property
    def seconds(self) -> float:
        """Median processor seconds of a turn."""
        return statistics.median(self.cpu)

    @property
    def memory_mib(self) -> float:
        """The memory that the turns needed on top of what was there before them."""
        return self.peak_mib - self.base_mib


def family() -> list[psutil.Process]:
    """This process and all its descendants."""
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


class _Processor(threading.Thread):
    """Adds up the processor seconds of this process and all its descendants, including those that have ended.

    A process counts with what it had used when it was last seen, since the system drops what no parent waits for.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._used: dict[tuple[int, float], float] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        while True:
            self.seconds()
            time.sleep(LOOK_SECONDS)

    def seconds(self) -> float:
        """Processor seconds since the start."""
        with self._lock:
            for process in family():
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
                    used, key = process.cpu_times(), (process.pid, process.create_time())
                    # A parent's times also hold those of children it waited for, which would count twice.
                    self._used[key] = used.user + used.system
            return sum(self._used.values())


def _resident_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _peak_mib() -> float:
    # getrusage would include the peak of the process that started this one.
    with open("/proc/self/status", encoding="ascii") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("VmHWM:")) / 1024


def arguments(parser: argparse.ArgumentParser, prepare: Callable[[str, dict[str, Any]], Turn]) -> argparse.Namespace:
    """Parses the command line. A process that :func:`measure` started serves its candidate and ends here.

    Args:
        parser: A parser with the benchmark's arguments.
        prepare: Maps a candidate's name and the arguments of :func:`measure` to what one turn does.
    """
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    parser.add_argument("--arguments", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.candidate:
        serve(lambda: prepare(args.candidate, json.loads(args.arguments)))
        sys.exit()
    return args


def serve(prepare: Callable[[], Turn]) -> None:
    """Takes a turn for each line on standard input, and answers with its measurements as JSON."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # A library's output must not mix with the answers.
    os.dup2(2, 1)
    turn = prepare()
    processor = _Processor()
    processor.start()
    base = _resident_mib()
    for _ in sys.stdin:
        cpu, wall = processor.seconds(), time.perf_counter()
        turn()
        row = {"wall": time.perf_counter() - wall, "cpu": processor.seconds() - cpu, "base": base}
        row["peak"] = _peak_mib()
        print(json.dumps(row), file=answers, flush=True)


def measure(script: str, candidates: Sequence[str], rounds: int, arguments: Mapping[str, Any]) -> dict[str, Times]:
    """Measures turns of all candidates, in random order in each round. A first round warms up and does not count.

    Args:
        script: A script that begins with :func:`arguments`.
        candidates: The candidates' names.
        rounds: Counted turns of each candidate.
        arguments: Passed on to ``prepare``, as JSON.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    processes = {
        name: subprocess.Popen(
            [sys.executable, script, "--candidate", name, "--arguments", json.dumps(dict(arguments))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in candidates
    }
    times = {name: Times() for name in candidates}
    order = random.Random(0)
    try:
        for number in range(rounds + 1):
            for name in order.sample(list(candidates), len(candidates)):
                row = _turn(name, processes[name])
                taken = times[name]
                taken.base_mib, taken.peak_mib = row["base"], row["peak"]
                if number:
                    taken.wall.append(row["wall"])
                    taken.cpu.append(row["cpu"])
    finally:
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
    return times


def _turn(name: str, process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{name} ended with status {process.wait()}")
    found: dict[str, float] = json.loads(line)
    return found
