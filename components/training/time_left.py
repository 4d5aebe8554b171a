"""The time that a training still needs, and the memory it has used."""

from __future__ import annotations

import datetime
import resource
import sys
import time

import torch

LINE_SECONDS = 15.0


class TimeLeft:
    """Estimates the time left, once every few seconds. The workers' logs take whole lines, so this is no bar.

    Args:
        interval_seconds: Time between two estimates.
    """

    def __init__(self, interval_seconds: float = LINE_SECONDS) -> None:
        self.interval_seconds = interval_seconds
        self._first: tuple[int, float] | None = None
        self._last = 0.0

    def after(self, step: int, total: int) -> str:
        """The time left as ``h:mm:ss``, or an empty string if the last estimate is recent.

        Args:
            step: The step just finished, from 1. Each call is one step after the call before.
            total: The number of steps.
        """
        now = time.monotonic()
        if self._first is None:
            # The first step warms up, so the estimate leaves it out.
            self._first, self._last = (step, now), now
        if now - self._last < self.interval_seconds or step == total:
            return ""
        self._last = now
        seconds = (now - self._first[1]) / (step - self._first[0]) * (total - step)
        return str(datetime.timedelta(seconds=round(seconds)))


def peak_memory_mib(device: torch.device) -> float:
    """The peak memory so far: what PyTorch allocated on a GPU, else this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return resident / (2**20 if sys.platform == "darwin" else 2**10)
