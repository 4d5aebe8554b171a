"""How a training is getting on: the time left and the memory used."""

from __future__ import annotations

import datetime
import resource
import sys
import time

import torch

LINE_SECONDS = 15.0


class TimeLeft:
    """Says every few seconds how long a training will still take.

    Args:
        interval_seconds: between two answers.
    """

    def __init__(self, interval_seconds: float = LINE_SECONDS) -> None:
        self.interval_seconds = interval_seconds
        self._first: tuple[int, float] | None = None
        self._last = 0.0

    def after(self, step: int, total: int) -> str:
        """The time left as ``h:mm:ss``, or nothing where the last answer is not long ago.

        Args:
            step: just finished, from 1; one more than at the call before.
            total: steps.
        """
        now = time.monotonic()
        if self._first is None:
            # The first step here warms up, and is none to measure by.
            self._first, self._last = (step, now), now
        if now - self._last < self.interval_seconds or step == total:
            return ""
        self._last = now
        seconds = (now - self._first[1]) / (step - self._first[0]) * (total - step)
        return str(datetime.timedelta(seconds=round(seconds)))


def peak_memory_mib(device: torch.device) -> float:
    """The most memory so far: what PyTorch had allocated on a GPU, else what this process had resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes, but on macOS bytes.
    return resident / (2**20 if sys.platform == "darwin" else 2**10)
