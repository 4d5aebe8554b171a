"""A decoder that misbehaves on purpose, as the video's name says. It gives all other files to decord.

Decoding processes import this module by its name.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from pathlib import Path

from components.ingest.decoders.base import Choose, DecodedFrames
from components.ingest.decoders.decord import decode as decord

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
    if name.startswith("raise"):
        raise ZeroDivisionError("a text that may contain addresses")
    return decord(path, choose, side)


def journal(path: str, choose: Choose, side: int | None = None) -> DecodedFrames:
    """Logs every call, sends a signal if a file asks for it, and calls decord.

    ``REELTUNE_TEST_JOURNAL`` names a folder. Its file ``journal`` gets a line per call. Its file ``kill`` contains a
    process id (or ``worker``, for the process that this one decodes for), the number of calls after which that process
    gets a signal, and the signal if it is not SIGKILL.
    """
    folder = Path(os.environ["REELTUNE_TEST_JOURNAL"])
    with (folder / "journal").open("a") as stream:
        stream.write(Path(path).stem + "\n")
    if (folder / "kill").exists():
        victim, calls, *name = (folder / "kill").read_text().split()
        if len((folder / "journal").read_text().split()) >= int(calls):
            (folder / "kill").unlink()
            os.kill(os.getppid() if victim == "worker" else int(victim), signal.Signals[(*name, "SIGKILL")[0]])
    return decord(path, choose, side)
