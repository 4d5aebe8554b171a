"""Measurements on whatever device is there: times, memory peaks and operators, printed and kept by part."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from components.backbones import mini
from models import B16, B32

Table = dict[str, float | str]


class Bench:
    """One run: the device, the sizes, and what was measured."""

    def __init__(self, smoke: bool) -> None:
        self.smoke = smoke
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.models = (mini.NAME,) if smoke else (B32, B16)
        self.rounds = 1 if smoke else 5
        self.found: dict[str, Table] = {}

    def add(self, part: str, **values: float | str) -> None:
        """Prints a row and keeps it."""
        self.found.setdefault(part, {}).update(values)
        shown = "  ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"{part:10} {shown}", flush=True)

    def seconds(self, turn: Callable[[], object], warm: int = 2) -> float:
        """Median wall time of a turn, the device drained before and after."""
        for _ in range(1 if self.smoke else warm):
            turn()
        times = []
        for _ in range(self.rounds):
            self.drain()
            started = time.perf_counter()
            turn()
            self.drain()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def drain(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_gib(self) -> float:
        """Memory peak on the card since the last call."""
        if self.device.type != "cuda":
            return 0.0
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return peak


class Operators(TorchDispatchMode):
    """Counts the operators that run, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))
