"""Candidates in processes of their own that take turns, so that a busy minute of the machine befalls all alike.

A benchmark script calls :func:`arguments` first, then :func:`measure`, which starts it again for each candidate.
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

# Between two looks at the processes below: what one uses after the last look at it is lost.
LOOK_SECONDS = 0.2

# What a candidate does once.
Turn = Callable[[], object]


@dataclass
class Times:
    """Turns of one candidate.

    Args:
        wall: seconds of each turn.
        cpu: processor seconds of each, children included.
        base_mib: resident memory before the first turn.
        peak_mib: the most it ever was.
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
        """What the turns needed beyond what stood ready before them."""
        return self.peak_mib - self.base_mib


def family() -> list[psutil.Process]:
    """This process and all below it."""
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


class _Processor(threading.Thread):
    """Adds up the processor seconds of this process and all below it, of those that have ended too.

    A process is counted by what it had used when it was last seen, for what nobody waits for counts for nobody.
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
        """Up to now, from the start of everything."""
        with self._lock:
            for process in family():
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
                    used, key = process.cpu_times(), (process.pid, process.create_time())
                    # Children that ended are in here again if their parent waited for them: only own time counts.
                    self._used[key] = used.user + used.system
            return sum(self._used.values())


def _resident_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _peak_mib() -> float:
    # getrusage would hand down the peak of the process that started this one.
    with open("/proc/self/status", encoding="ascii") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("VmHWM:")) / 1024


def arguments(parser: argparse.ArgumentParser, prepare: Callable[[str, dict[str, Any]], Turn]) -> argparse.Namespace:
    """The command line of a benchmark; a process that :func:`measure` started serves its candidate and ends here.

    Args:
        parser: with the benchmark's own arguments.
        prepare: name of a candidate and the arguments of :func:`measure` to what one turn does.
    """
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    parser.add_argument("--arguments", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.candidate:
        serve(lambda: prepare(args.candidate, json.loads(args.arguments)))
        sys.exit()
    return args


def serve(prepare: Callable[[], Turn]) -> None:
    """Takes a turn for each line on standard input, and answers with its figures as JSON."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What a library prints must not come between the answers.
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
    """Turns of all candidates, in random order within each round; a first round warms up and is not counted.

    Args:
        script: begins with :func:`arguments`.
        candidates: names.
        rounds: counted turns of each.
        arguments: passed on as JSON.
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
                own = times[name]
                own.base_mib, own.peak_mib = row["base"], row["peak"]
                if number:
                    own.wall.append(row["wall"])
                    own.cpu.append(row["cpu"])
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
