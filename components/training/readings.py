"""The loss and the gradient norm of each step, read without making the host wait for a GPU."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from components.errors import TrainingError
from components.training.metrics import StepValues

# A GPU's values are read this many steps after their own step. The host launches work that far ahead.
GPU_LATE = 4

# Waits for a copy and returns it.
Read = Callable[[], Sequence[float]]


@dataclass(frozen=True)
class _Pending:
    """A step of which the values are not known yet."""

    step: int
    ids: tuple[str, ...]
    frames: int
    read: Read


def copy_to_host(values: Tensor) -> Read:
    """Starts to copy ``values``, float[n], to the host. The copy from a GPU runs on the current stream."""
    if values.device.type != "cuda":
        found = values.tolist()
        return lambda: found
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> Sequence[float]:
        copied.synchronize()
        found: list[float] = host.tolist()
        return found

    return read


class Readings:
    """Checks that the loss and the gradient norm of each step are finite, a fixed number of steps later.

    The number is fixed, and does not depend on which copies are complete, so all processes of a group stop at the same
    step.

    Args:
        late: How many steps a value may be unknown. 0 checks each step at once, before its parameters change.
        copy: Starts the copy of a tensor to the host.
    """

    def __init__(self, late: int, copy: Callable[[Tensor], Read] = copy_to_host) -> None:
        self._late, self._copy = late, copy
        self._pending: deque[_Pending] = deque()

    @classmethod
    def on(cls, device: torch.device) -> Readings:
        """Readings of steps that run on ``device``."""
        return cls(GPU_LATE if device.type == "cuda" else 0)

    def add(self, step: int, ids: tuple[str, ...], frames: int, loss: Tensor, norm: Tensor) -> list[StepValues]:
        """Adds a step, and returns the values that are due by now, the oldest first.

        Args:
            step: The step, from 1.
            ids: The videos of its global batch.
            frames: The real frames that this process encoded.
            loss, norm: float[], the loss and the gradient norm before clipping.

        Raises:
            TrainingError: A loss or norm that is due is NaN or Inf.
        """
        # Two float32 numbers, exact in float64.
        read = self._copy(torch.stack([loss.detach().double(), norm.detach().double()]))
        self._pending.append(_Pending(step, ids, frames, read))
        return self._first(len(self._pending) - self._late)

    def rest(self) -> list[StepValues]:
        """All values that are not read yet. To be called before anything of a step is saved, validated or logged.

        Raises:
            TrainingError: A loss or norm is NaN or Inf.
        """
        return self._first(len(self._pending))

    def _first(self, count: int) -> list[StepValues]:
        return [_checked(self._pending.popleft()) for _ in range(count)]


def _checked(pending: _Pending) -> StepValues:
    loss, norm = pending.read()
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise TrainingError(
            f"loss {loss} and gradient norm {norm} at step {pending.step}",
            where=f"videos {', '.join(pending.ids)}",
            expected="finite numbers",
            cure="lower the method's lr, or look at these videos",
        )
    return StepValues(pending.step, loss, norm, pending.frames)
