"""The metrics of a training: collected in every step, logged every few steps and after each validation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from components.methods.base import Method
from components.processes import rank_and_world
from components.training.batches import BatchPlan
from components.training.state import TrainingState
from components.training.time_left import TimeLeft, peak_memory_mib
from components.training.utilisation import Utilisation

logger = logging.getLogger(__name__)

# Steps between two logged points. Each point is a write to the tracking store.
LOG_EVERY = 10
# Logged points in a checkpoint. A driver that is killed has not passed on all that its workers logged.
LOGGED_AGAIN = 100

# Receives the number of finished steps (from 1) and metrics by name. After a resume, some points arrive a second time.
Log = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class StepValues:
    """What one step measured.

    Attributes:
        step: The step, from 1.
        loss: The loss of the global batch.
        gradient_norm: The global norm before clipping.
        frames: The real frames, without padding, that this process encoded.
    """

    step: int
    loss: float
    gradient_norm: float
    frames: int


class MetricsLog:
    """Collects a training's metrics and logs them, on rank 0 only.

    Args:
        method: The method in training.
        state: The training's state. Its checkpoints hold the last logged points.
        plan: Counts the videos of the steps.
        total: The steps of the whole training.
        log: Receives the metrics. None drops them.
        utilisation: Gives the MFU. None leaves it out.
    """

    def __init__(
        self,
        method: Method,
        state: TrainingState,
        plan: BatchPlan,
        total: int,
        log: Log | None,
        utilisation: Utilisation | None = None,
    ) -> None:
        self.method, self.state, self.plan, self.total = method, state, plan, total
        self.rank, self.world = rank_and_world()
        self.log = log if self.rank == 0 else None
        self.utilisation = utilisation
        self.time_left = TimeLeft()
        # The metrics of the last full window.
        self.latest: dict[str, float] = {}
        self._window: list[StepValues] = []
        self._window_start = (0.0, 0.0)

    def start(self, resumed: bool) -> None:
        """Starts the first window. After a resume, it logs again what the driver may have lost."""
        progress = self.state.progress
        if resumed:
            if self.rank == 0:
                logger.info("resumed after step %d of %d", progress.step, self.total)
            for step, metrics in progress.logged:
                if self.log is not None:
                    self.log(step, metrics)
        self._window_start = (progress.seconds, progress.wait_seconds)

    def add(self, values: StepValues) -> None:
        """Adds a step, and logs the window if it is full. Such a step is the one just finished."""
        progress = self.state.progress
        progress.loss_sum += values.loss
        progress.loss_count += 1
        self._window.append(values)
        if self.rank == 0 and (left := self.time_left.after(values.step, self.total)):
            logger.info("step %d/%d  loss %.4f  %s left", values.step, self.total, values.loss, left)
        if self.is_logged(values.step):
            self.latest = self._window_metrics()
            self.record(self.latest)
            self._window, self._window_start = [], (progress.seconds, progress.wait_seconds)

    def is_logged(self, step: int) -> bool:
        """Whether the values up to this step are logged after it."""
        return step % LOG_EVERY == 0 or step == self.total

    def record(self, metrics: dict[str, float]) -> None:
        """Logs metrics under the step just finished."""
        progress = self.state.progress
        progress.logged.append((progress.step, metrics))
        del progress.logged[:-LOGGED_AGAIN]
        if self.log is not None:
            self.log(progress.step, metrics)

    def samples_per_second(self) -> float:
        """Videos per second over all steps so far."""
        return self.plan.pairs(self.state.progress.step) / self.state.progress.seconds

    def _window_metrics(self) -> dict[str, float]:
        progress, pairs = self.state.progress, self.plan.pairs
        seconds = progress.seconds - self._window_start[0]
        waited = progress.wait_seconds - self._window_start[1]
        videos = pairs(progress.step) - pairs(progress.step - len(self._window))
        return {
            "loss": float(np.mean([values.loss for values in self._window])),
            "gradient_norm": float(np.mean([values.gradient_norm for values in self._window])),
            "lr": self.state.optimiser.param_groups[0]["lr"],
            "logit_scale": float(self.method.logit_scale.detach()),
            "samples_per_second": videos / seconds,
            # The processes' parts of a batch have almost the same size.
            "frames_per_second": sum(values.frames for values in self._window) * self.world / seconds,
            "data_wait_share": waited / seconds,
            "peak_memory_mib": peak_memory_mib(next(self.method.parameters()).device),
            **({"mfu": self.utilisation.of(videos / seconds, self.world)} if self.utilisation else {}),
        }
