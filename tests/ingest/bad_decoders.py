"""A decoder that misbehaves on purpose, as the video's name says. It gives all other files to decord.

Decoding processes import this module by its name.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.ingest.decoders.base import Choose, DecodedFrames, Take
from components.ingest.decoders.decord import decode as decord
from components.ingest.decoders.pyav import decode as pyav

KEPT: list[object] = []


def decode(path: str, choose: Choose, side: int | None = None) -> DecodedFrames:
    """Misbehaves for the names below, and calls decord for all others."""
    name = Path(path).stem
    if name.startswith("hang"):
        ctypes.PyDLL(None).pause()  # forever, in C, holding Python's lock
    if name.startswith("abort"):
        os.abort()
    if name.startswith("segfault"):
        ctypes.string_at(0)
    if name.startswith("leave"):
        os._exit(7)
    if name.startswith("leak"):
        held = []
        while True:
            held.append(b"x" * (8 << 20))
    if name.startswith("keep"):
        KEPT.append(b"x" * (300 << 20))
    if name.startswith("map"):
        KEPT.append(mmap.mmap(-1, 64 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ))
    if name.startswith("spin"):
        while True:  # forever, with a processor
            pass
    if name.startswith("stopped"):
        os.kill(os.getpid(), signal.SIGSTOP)  # as a machine that has no time for it, until somebody continues it
    if name.startswith("killed") and marker(path).exists():
        if marker(path).read_text() == "once":
            marker(path).unlink()
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
    if name.startswith("growing") and marker(path).exists():
        with Path(path).open("ab") as stream:
            stream.write(b"more")
    if name.startswith("times"):
        return wrong_times(name, decord(path, choose, side))
    if name.startswith("raise"):
        raise ZeroDivisionError("a text that may contain addresses")
    return decord(path, choose, side)


def marker(path: str) -> Path:
    """Returns the file next to a video that makes it misbehave."""
    return Path(path).with_suffix(".marker")


def wrong_times(name: str, right: DecodedFrames) -> DecodedFrames:
    """Returns a right answer with the times, numbers or lengths that libraries were seen to return."""
    times, indices = list(right.timestamps_seconds), list(right.indices)
    wrong = {
        "times-nan": {"timestamps_seconds": [*times[:-1], float("nan")]},
        "times-huge": {"timestamps_seconds": [*times[:-1], 9.2e18]},
        "times-negative": {"timestamps_seconds": [-1.0, *times[1:]]},
        "times-back": {"timestamps_seconds": times[::-1]},
        "times-length": {"duration_seconds": float("inf")},
        "times-rate": {"fps": float("nan")},
        "times-numbers": {"indices": indices[::-1]},
        "times-beyond": {"indices": [*indices[:-1], right.source_frames]},
        "times-fewer": {"timestamps_seconds": times[1:]},
    }
    return replace(right, **wrong[name])  # type: ignore[arg-type]


def journal(path: str, choose: Choose, side: int | None = None) -> DecodedFrames:
    """Logs every call, sends a signal if a file asks for it, and calls decord.

    ``REELTUNE_TEST_JOURNAL`` names a folder. Its file ``journal`` gets a line per call. Its file ``kill`` contains a
    process id (or ``child`` for this process, or ``worker`` for the one that it decodes for), the number of calls after
    which that process gets a signal, and the signal if it is not SIGKILL.
    """
    folder = Path(os.environ["REELTUNE_TEST_JOURNAL"])
    with (folder / "journal").open("a") as stream:
        stream.write(Path(path).stem + "\n")
    if (folder / "kill").exists():
        victim, calls, *name = (folder / "kill").read_text().split()
        if len((folder / "journal").read_text().split()) >= int(calls):
            (folder / "kill").unlink()
            known = {"child": os.getpid(), "worker": os.getppid()}
            os.kill(known[victim] if victim in known else int(victim), signal.Signals[(*name, "SIGKILL")[0]])
    return decord(path, choose, side)


def breaking(path: str, choose: Choose, side: int | None = None, take: Take | None = None) -> DecodedFrames:
    """Calls PyAV. Where a video has a marker, it dies once in the middle of its frames."""
    seen: list[int] = []

    def counting(number: int, picture: NDArray[np.uint8]) -> None:
        seen.append(number)
        if len(seen) == 20 and marker(path).exists():
            marker(path).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        assert take is not None
        take(number, picture)

    return pyav(path, choose, side, None if take is None else counting)
