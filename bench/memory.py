"""The peak memory of each kind of process of an ingest.

    python bench/memory.py [--videos 100000] [--shard 500] [--cpus 2]

The videos are copies of a one-second video (96 x 96). No two have the same content. This tests the length of the
manifest, the number of shards and the time that processes live. Resident memory is read twice a second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import psutil
from ingest import TASK, copies, task_params, write_video
from interleaved import family

from components.ingest import child
from components.ingest.run import ingest

LOOK_SECONDS = 0.5


class Peaks(threading.Thread):
    """Follows the peak resident memory in MiB of one process of each kind."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib: dict[str, float] = defaultdict(float)

    def run(self) -> None:
        """Reads the memory until this process ends."""
        while True:
            for process in family():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # it ended just now
                    kind = _kind(process)
                    self.mib[kind] = max(self.mib[kind], process.memory_info().rss / 2**20)
            time.sleep(LOOK_SECONDS)


def _kind(process: psutil.Process) -> str:
    if process.pid == os.getpid():
        return "driver"
    command = " ".join(process.cmdline())
    if child.__name__ in command:
        return "decoding child"
    # A worker's title is its work, here Ray Data's Map, or idle.
    return "worker" if command.startswith(("ray::Map", "ray::IDLE")) else "other processes of Ray"


def main() -> None:
    """Makes the videos, ingests them, and prints a line per kind of process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--shard", type=int, default=500, help="videos per shard")
    parser.add_argument("--cpus", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_video(folder / "tiny.mp4", seed=0, seconds=1, width=96, height=96, gop=25)
        root = copies(folder / "root", [str(folder / "tiny.mp4")], args.videos)
        peaks = Peaks()
        peaks.start()
        params = task_params(args.cpus, args.shard)
        summary = ingest(root, TASK, params.task(TASK), params.frames, params.ray)
        print(summary.text())
        for kind, mib in peaks.mib.items():
            print(f"{kind:24}{mib:8.0f} MiB")


if __name__ == "__main__":
    main()
