"""The training loop: plain PyTorch, one process or many, the same result after any interruption.

Everything random in a step is a function of (seed, step, micro-batch), so a checkpoint after any step needs no
generator states. :mod:`components.training.state` says what it holds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from components import heartbeat
from components.captions.file import FrameCaptions
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method
from components.methods.reader import reader_for
from components.precision import check_precision, numerics
from components.processes import rank_and_world
from components.training.batch import Batch
from components.training.captioned import check_captions
from components.training.checkpoint import Checkpoints
from components.training.loader import Loader, make_loader
from components.training.metrics import Log, MetricsLog, StepValues
from components.training.optimiser import build_optimiser, lr_factor
from components.training.passes import Passes, divide
from components.training.readings import Readings
from components.training.selection import EpochDone, Validate, Validator, with_split
from components.training.settings import ExecutionSettings, TrainingSettings
from components.training.state import TrainingState
from components.training.step import StepGradients
from components.training.utilisation import measure


@dataclass(frozen=True)
class Result:
    """What a training gives.

    Attributes:
        epoch: The epoch whose parameters the method now holds, from 1; 0 without training.
        curve: One row per validated epoch: epoch, step, mean loss since the row before, validation metrics.
        steps: Optimiser steps.
        seconds: Time in steps.
        samples_per_second: Videos per second of that time.
        data_wait_share: Ratio of that time that was spent waiting for data.
        passes: How batches were divided. None without training.
    """

    epoch: int
    curve: list[dict[str, float]]
    steps: int = 0
    seconds: float = 0.0
    samples_per_second: float = 0.0
    data_wait_share: float = 0.0
    passes: Passes | None = None


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
    epoch_done: EpochDone | None = None,
    frame_captions: FrameCaptions | None = None,
) -> Result:
    """Trains ``method`` in place on the train split. Afterwards it holds the selected parameters.

    Every process of the default process group calls this, if there is a group, with equally initialised methods.

    Args:
        method: The method, on the device to train on.
        store: The frames.
        settings: What decides the result. The learning rate is one of the method's settings.
        execution: The steps between checkpoints, and the memory for frames.
        seed: Fixes batches, captions and every other random draw.
        validate: Measures the validation split every ``validation_every`` epochs and after the last.
        checkpoints: Where to save and to resume from. None saves nothing.
        log: Receives metrics every few steps and after each validation, on rank 0 only.
        epoch_done: Receives the metrics after each validation, in every process.
        frame_captions: A caption of every frame of every training video, for a method that needs them.

    Raises:
        ConfigError: The device does not compute in a precision of the settings.
        TrainingError: The method needs captions of frames and gets none, or not with these settings. There are no
            training videos, a step does not fit into the memory, or a loss or gradient is NaN or Inf.
    """
    device = next(method.parameters()).device
    check_precision(settings.precision, device, "training.precision")
    if validate is not None:
        validate.check(device)
    reader = reader_for(method, store, execution.cache_mib, execution.decode_threads)
    if not method.trainable():
        return _measure(method, store, reader, settings, validate, log)
    if method.caption_loss is not None:
        check_captions(method, settings, store, frame_captions)
    method.clamp_scale()
    heartbeat.mark("the first pass")
    with numerics(settings.precision):
        passes = divide(method, settings, checkpoints.folder if checkpoints else None)
        utilisation = measure(method, settings)
    settings = replace(settings, micro_batches=passes.micro_batches, grad_cache=passes.grad_cache)
    gradients = StepGradients(method, settings, seed, execution.cache_mib)
    optimiser = build_optimiser(method.trainable(), method.learning_rates(), settings.weight_decay, settings.decay)
    loader = make_loader(method, store, settings, seed, reader, passes.micro_batches, frame_captions)
    state = TrainingState(method.trainable(), optimiser, checkpoints)
    metrics = MetricsLog(method, state, loader.plan, loader.plan.steps_per_epoch * settings.epochs, log, utilisation)
    validator = Validator(method, store, reader, validate, settings, state, metrics, epoch_done)
    with numerics(settings.precision):
        return _Loop(
            method, settings, execution, passes, loader, gradients, state, metrics, validator, Readings.on(device)
        ).run()


def _measure(
    method: Method,
    store: FrameStore,
    reader: FrameReader,
    settings: TrainingSettings,
    validate: Validate | None,
    log: Log | None,
) -> Result:
    """Validates a method that trains nothing."""
    method.eval()
    heartbeat.mark("the validation")
    found = validate(method, store, reader) if validate else {}
    if log and found and rank_and_world()[0] == 0:
        log(0, with_split(settings, found))
    return Result(0, [{"epoch": 0, "step": 0, **found}] if found else [])


@dataclass(frozen=True)
class _Loop:
    """One training in one process."""

    method: Method
    settings: TrainingSettings
    execution: ExecutionSettings
    passes: Passes
    loader: Loader
    gradients: StepGradients
    state: TrainingState
    metrics: MetricsLog
    validator: Validator
    readings: Readings

    @property
    def total(self) -> int:
        return self.metrics.total

    def run(self) -> Result:
        self.metrics.start(resumed=self.state.resume())
        progress = self.state.progress
        batches = self.loader.batches(progress.step, self.total)
        device = next(self.method.parameters()).device
        self.method.train()
        while progress.step < self.total:
            heartbeat.mark(f"step {progress.step + 1}")
            started = time.perf_counter()
            batch = next(batches)
            progress.wait_seconds += time.perf_counter() - started
            values = self._step(batch, device)
            progress.seconds += time.perf_counter() - started
            for of_step in values:
                self.metrics.add(of_step)
            self._after_step()
        batches.close()
        return self._finish()

    def _step(self, batch: Batch, device: torch.device) -> list[StepValues]:
        """One optimiser step. Returns the values that are known by now, of this step or of earlier ones."""
        step, parameters = self.state.progress.step, self.state.parameters
        factor = lr_factor(step, self.total, self.settings.warmup_share)
        for group in self.state.optimiser.param_groups:
            group["lr"] = group["peak_lr"] * factor
        loss = self.gradients.backward(batch.to(device), step)
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), self.settings.max_grad_norm)
        values = self.readings.add(step + 1, batch.ids, batch.real_frames, loss, norm)
        self.state.optimiser.step()
        self.method.clamp_scale()
        self.state.progress.step += 1
        if self.metrics.is_logged(step + 1) or self._saves(step + 1):
            values += self.readings.rest()
        return values

    def _validates(self, step: int) -> bool:
        epoch, within = divmod(step, self.loader.plan.steps_per_epoch)
        return within == 0 and (step == self.total or epoch % self.settings.validation_every == 0)

    def _saves(self, step: int) -> bool:
        return self._validates(step) or step % self.execution.checkpoint_steps == 0

    def _after_step(self) -> None:
        """Validates at the end of an epoch and saves when a checkpoint is due. No validation is ever repeated."""
        step = self.state.progress.step
        if self._validates(step):
            heartbeat.mark(f"the validation after step {step}")
            self.validator.run(step // self.loader.plan.steps_per_epoch)
        if self._saves(step):
            heartbeat.mark(f"the checkpoint after step {step}")
            self.state.save()

    def _finish(self) -> Result:
        progress = self.state.progress
        epoch = self.state.restore_best() or self.settings.epochs
        self.method.eval()
        return Result(
            epoch=epoch,
            curve=progress.curve,
            steps=progress.step,
            seconds=round(progress.seconds, 3),
            samples_per_second=round(self.metrics.samples_per_second(), 3),
            data_wait_share=round(progress.wait_seconds / progress.seconds, 4),
            passes=self.passes,
        )
