"""The training loop: plain PyTorch, one process or many, the same result after any interruption.

Everything random at a step is a function of (seed, step, slice), so a checkpoint after any step needs no generator
states (:mod:`components.training.checkpoint` says what it holds).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from components import heartbeat
from components.errors import TrainingError
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method
from components.precision import check_precision, numerics
from components.processes import rank_and_world
from components.training.checkpoint import Checkpoints, check_state
from components.training.loader import Batch, make_loader
from components.training.optimiser import build_optimiser, lr_factor
from components.training.settings import ExecutionSettings, TrainingSettings
from components.training.step import StepGradients
from components.training.time_left import TimeLeft, peak_memory_mib

logger = logging.getLogger(__name__)

# Steps between two logged points; each is a write to the tracking store.
LOG_EVERY = 10
# Threads that decode for one GPU; more do not feed it faster.
GPU_THREADS = 8
# Logged points that a checkpoint holds: a driver that is killed has not passed on all that its workers had logged.
TOLD_AGAIN = 100

# Receives the step (finished steps, from 1) and named figures; after a resumption some that it has received before.
Log = Callable[[int, dict[str, float]], None]


class Validate(Protocol):
    """Measures a method, as a rule on the validation split; called by every process, with the same result in each."""

    def __call__(self, method: Method, store: FrameStore, reader: FrameReader) -> dict[str, float]:
        """Named figures, ``t2v_R@1`` among them; empty where there is no validation split."""
        ...


@dataclass
class Result:
    """What a training gives.

    Attributes:
        epoch: the epoch whose parameters the method now holds, from 1; 0 without training.
        curve: one row per validated epoch: epoch, step, loss (mean since the row before), lr, validation figures.
        figures: steps, seconds, samples_per_second, data_wait_share (of the training time).
    """

    epoch: int
    curve: list[dict[str, float]]
    figures: dict[str, float]


@dataclass
class _Progress:
    """What a checkpoint holds besides parameters and optimiser."""

    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -math.inf
    told: list[tuple[int, dict[str, float]]] = field(default_factory=list)


def fit(
    method: Method,
    store: FrameStore,
    settings: TrainingSettings,
    execution: ExecutionSettings,
    seed: int,
    *,
    validate: Validate | None = None,
    checkpoints: Checkpoints | None = None,
    log: Log | None = None,
) -> Result:
    """Trains ``method`` in place on the train split; afterwards it holds the selected parameters.

    To be called by every process of the default process group, if there is one, with equally initialised methods.

    Args:
        method: on the device to train on.
        store: the frames.
        settings: what all methods share; the learning rate is the method's own.
        execution: how often to save, and memory for frames.
        seed: fixes batches, captions and every other random draw.
        validate: measures the validation split every ``validation_every`` epochs and after the last.
        checkpoints: where to save and resume from; None keeps nothing.
        log: gets figures every few steps and after each validation, on rank 0 only.

    Raises:
        TrainingError: no training videos, a loss or gradient that is NaN or Inf.
    """
    device = next(method.parameters()).device
    check_precision(settings.precision, device, "training.precision")
    threads = execution.decode_threads or (GPU_THREADS if device.type == "cuda" else 1)
    reader = FrameReader(store, method.backbone.resize, method.frames, execution.cache_mib, threads)
    if not method.trainable():
        method.eval()
        heartbeat.mark("the validation")
        figures = validate(method, store, reader) if validate else {}
        if log and figures and rank_and_world()[0] == 0:
            log(0, _named(settings, figures))
        nothing = {"steps": 0.0, "seconds": 0.0, "samples_per_second": 0.0, "data_wait_share": 0.0}
        return Result(0, [{"epoch": 0, "step": 0, **figures}] if figures else [], nothing)
    run = _Run(method, store, settings, execution, seed, reader, validate, checkpoints, log or _ignore)
    with numerics(settings.precision):
        return run.train()


class _Run:
    """One training in one process."""

    def __init__(
        self,
        method: Method,
        store: FrameStore,
        settings: TrainingSettings,
        execution: ExecutionSettings,
        seed: int,
        reader: FrameReader,
        validate: Validate | None,
        checkpoints: Checkpoints | None,
        log: Log,
    ) -> None:
        self.method, self.store, self.settings, self.seed = method, store, settings, seed
        self.execution = execution
        self.reader, self.validate, self.checkpoints = reader, validate, checkpoints
        self.rank, self.world = rank_and_world()
        self.log = log if self.rank == 0 else _ignore
        self.parameters = method.trainable()
        self.device = next(method.parameters()).device
        method.clamp_scale()
        self.gradients = StepGradients(method, settings, seed, execution.cache_mib)
        self.optimiser = build_optimiser(self.parameters, method.learning_rates(), settings.weight_decay)
        self.loader = make_loader(method, store, settings, seed, reader)
        self.steps_per_epoch = self.loader.plan.steps_per_epoch
        self.total = self.steps_per_epoch * settings.epochs
        self.progress = _Progress()
        self.best: dict[str, Tensor] | None = None
        self.window: list[tuple[float, float, int]] = []
        self.window_start = (0.0, 0.0)
        self.time_left = TimeLeft()

    def train(self) -> Result:
        self.resume()
        progress = self.progress
        self.window_start = (progress.seconds, progress.wait_seconds)
        batches = self.loader.batches(progress.step, self.total)
        self.method.train()
        while progress.step < self.total:
            heartbeat.mark(f"step {progress.step + 1}")
            started = time.perf_counter()
            batch = next(batches)
            progress.wait_seconds += time.perf_counter() - started
            loss, norm = self.step(batch)
            progress.seconds += time.perf_counter() - started
            self.note(loss, norm, batch.real_frames)
            self.after_step()
        batches.close()
        return self.finish()

    def step(self, batch: Batch) -> tuple[float, float]:
        """One optimiser step; the loss and the gradient norm before clipping."""
        progress = self.progress
        factor = lr_factor(progress.step, self.total, self.settings.warmup_share)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak_lr"] * factor
        loss = self.gradients.backward(batch.to(self.device), progress.step)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)
        values = float(loss), float(norm)
        if not all(math.isfinite(value) for value in values):
            raise TrainingError(
                f"loss {values[0]} and gradient norm {values[1]} at step {progress.step + 1}",
                where=f"videos {', '.join(batch.ids)}",
                expected="finite numbers",
                cure="lower the method's lr, or look at these videos",
            )
        self.optimiser.step()
        self.method.clamp_scale()
        progress.step += 1
        return values

    def note(self, loss: float, norm: float, frames: int) -> None:
        """Adds a step with its share of the real frames to the running figures and logs them every few steps."""
        progress = self.progress
        progress.loss_sum += loss
        progress.loss_count += 1
        self.window.append((loss, norm, frames))
        if self.rank == 0 and (left := self.time_left.after(progress.step, self.total)):
            logger.info("step %d/%d  loss %.4f  %s left", progress.step, self.total, loss, left)
        if progress.step % LOG_EVERY and progress.step != self.total:
            return
        seconds = progress.seconds - self.window_start[0]
        waited = progress.wait_seconds - self.window_start[1]
        pairs = self.loader.plan.pairs
        self.tell(
            {
                "loss": float(np.mean([entry[0] for entry in self.window])),
                "gradient_norm": float(np.mean([entry[1] for entry in self.window])),
                "lr": self.optimiser.param_groups[0]["lr"],
                "logit_scale": float(self.method.logit_scale.detach()),
                "samples_per_second": (pairs(progress.step) - pairs(progress.step - len(self.window))) / seconds,
                # All shares are of one size but for a video.
                "frames_per_second": sum(entry[2] for entry in self.window) * self.world / seconds,
                "data_wait_share": waited / seconds,
                "peak_memory_mib": peak_memory_mib(self.device),
            },
        )
        self.window, self.window_start = [], (progress.seconds, progress.wait_seconds)

    def tell(self, figures: dict[str, float]) -> None:
        """Logs figures of the step just made."""
        told = self.progress.told
        told.append((self.progress.step, figures))
        del told[:-TOLD_AGAIN]
        self.log(self.progress.step, figures)

    def after_step(self) -> None:
        """Validation at the end of an epoch, and a checkpoint where one is due; a validation is never done twice."""
        step = self.progress.step
        epoch, within = divmod(step, self.steps_per_epoch)
        validated = within == 0 and (step == self.total or epoch % self.settings.validation_every == 0)
        if validated:
            heartbeat.mark(f"the validation after step {step}")
            self.measure(epoch)
        if validated or step % self.execution.checkpoint_steps == 0:
            heartbeat.mark(f"the checkpoint after step {step}")
            self.save()

    def measure(self, epoch: int) -> None:
        """A row of the curve, and the selection where it is on validation."""
        progress = self.progress
        self.method.eval()
        figures = self.validate(self.method, self.store, self.reader) if self.validate else {}
        self.method.train()
        row = {"epoch": epoch, "step": progress.step, "loss": progress.loss_sum / progress.loss_count, **figures}
        progress.curve.append(row)
        progress.loss_sum, progress.loss_count = 0.0, 0
        self.tell(_named(self.settings, figures))
        if self.rank == 0:
            rate = self.loader.plan.pairs(progress.step) / progress.seconds
            named = _named(self.settings, figures)
            shown = "".join(
                f"  {name.replace('_', ' ', 1)} {named[name]:.1f}" for name in named if name.endswith("R@1")
            )
            epochs = self.settings.epochs
            logger.info("epoch %d/%d  loss %.4f%s  %.1f samples/s", epoch, epochs, row["loss"], shown, rate)
        if self.settings.select_on != "last" and figures.get("t2v_R@1", -math.inf) > progress.best_score:
            progress.best_score, progress.best_epoch = figures["t2v_R@1"], epoch
            self.best = _copy(self.parameters)

    def save(self) -> None:
        if self.rank != 0 or self.checkpoints is None:
            return
        state = {
            "parameters": _copy(self.parameters),
            "optimiser": self.optimiser.state_dict(),
            "progress": vars(self.progress),
            "best": self.best,
        }
        self.checkpoints.save(self.progress.step, state)

    def resume(self) -> None:
        """Continues from the newest checkpoint that rank 0 can read, if there is one."""
        if self.checkpoints is None:
            return
        found = self.checkpoints.latest(self.check) if self.rank == 0 else None
        if self.world > 1:
            # All must start from the same one, whatever a shared file system shows to each.
            chosen: list[Any] = [found[0] if found else None]
            dist.broadcast_object_list(chosen, src=0)
            if self.rank != 0 and chosen[0] is not None:
                found = chosen[0], self.checkpoints.load(chosen[0])
        if found is None:
            return
        state = found[1]
        _restore(self.parameters, state["parameters"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = _Progress(**state["progress"])
        self.best = state["best"]
        if self.rank == 0:
            logger.info("resumed after step %d of %d", self.progress.step, self.total)
        for step, figures in self.progress.told:
            self.log(step, figures)

    def check(self, state: dict[str, Any]) -> None:
        check_state(state, self.parameters, self.optimiser, set(vars(self.progress)))

    def finish(self) -> Result:
        progress = self.progress
        epoch = self.settings.epochs
        if self.best is not None:
            _restore(self.parameters, self.best)
            epoch = progress.best_epoch
        self.method.eval()
        figures = {
            "steps": float(progress.step),
            "seconds": round(progress.seconds, 3),
            "samples_per_second": round(self.loader.plan.pairs(progress.step) / progress.seconds, 3),
            "data_wait_share": round(progress.wait_seconds / progress.seconds, 4),
        }
        return Result(epoch, progress.curve, figures)


def _named(settings: TrainingSettings, figures: dict[str, float]) -> dict[str, float]:
    """Figures under the name of the split they were measured on: those of the test split never pass for validation."""
    split = "test" if settings.select_on == "test" else "val"
    return {f"{split}_{name}": value for name, value in figures.items()}


def _copy(parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def _restore(parameters: dict[str, torch.nn.Parameter], state: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(state[name])


def _ignore(step: int, figures: dict[str, float]) -> None:
    """Stands in where nothing listens."""
