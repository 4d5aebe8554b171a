"""Validation at the end of an epoch, and the selection of the epoch that a training keeps."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Protocol

import torch

from components.errors import TrainingError
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method
from components.processes import rank_and_world
from components.training.metrics import MetricsLog
from components.training.settings import TrainingSettings
from components.training.state import TrainingState

logger = logging.getLogger(__name__)

# The metric that selects the epoch.
SCORE = "t2v_R@1"


class Validate(Protocol):
    """Measures a method, usually on the validation split. Every process calls it and gets the same result."""

    def check(self, device: torch.device) -> None:
        """Raises ConfigError if the method cannot be measured on this device. Called before the training starts."""
        ...

    def __call__(self, method: Method, store: FrameStore, reader: FrameReader) -> dict[str, float]:
        """Metrics by name, ``t2v_R@1`` among them; empty if there is no validation split."""
        ...


# Receives metrics by name.
EpochDone = Callable[[dict[str, float]], object]


class Validator:
    """Measures the method, adds a row to the curve and keeps the best epoch where the settings ask for it.

    Args:
        method: The method in training.
        store, reader: The frames.
        validate: Measures the method. None gives rows without metrics.
        settings: Say which split is measured and which epoch is kept.
        state: Holds the curve and the selected parameters.
        metrics: Logs the metrics.
        epoch_done: Receives the metrics of each validated epoch, in every process.
    """

    def __init__(
        self,
        method: Method,
        store: FrameStore,
        reader: FrameReader,
        validate: Validate | None,
        settings: TrainingSettings,
        state: TrainingState,
        metrics: MetricsLog,
        epoch_done: EpochDone | None = None,
    ) -> None:
        self.epoch_done = epoch_done
        self.method, self.store, self.reader, self.validate = method, store, reader, validate
        self.settings, self.state, self.metrics = settings, state, metrics

    def run(self, epoch: int) -> None:
        """Validates after ``epoch``, counted from 1. The method is in training mode before and after."""
        progress = self.state.progress
        self.method.eval()
        found = self.validate(self.method, self.store, self.reader) if self.validate else {}
        self.method.train()
        loss = progress.loss_sum / progress.loss_count
        progress.curve.append({"epoch": epoch, "step": progress.step, "loss": loss, **found})
        progress.loss_sum, progress.loss_count = 0.0, 0
        named = with_split(self.settings, found)
        self.metrics.record(named)
        if self.epoch_done is not None:
            self.epoch_done({**self.metrics.latest, **named, "epoch": epoch, "step": progress.step, "loss": loss})
        if rank_and_world()[0] == 0:
            recalls = {name.replace("_", " ", 1): value for name, value in named.items() if name.endswith("R@1")}
            shown = "".join(f"  {name} {value:.1f}" for name, value in recalls.items())
            rate = self.metrics.samples_per_second()
            logger.info("epoch %d/%d  loss %.4f%s  %.1f samples/s", epoch, self.settings.epochs, loss, shown, rate)
        if self.settings.select_on != "last":
            self.state.select(epoch, found.get(SCORE, -math.inf))


def check_selection(store: FrameStore, settings: TrainingSettings) -> None:
    """Refuses a training whose settings select an epoch by a split in which no video was decoded.

    Raises:
        TrainingError: There is no such video.
    """
    split = {"last": None, "val": "val", "test": store.manifest.protocol.test_split}[settings.select_on]
    if split is not None and not store.ids(split):
        raise TrainingError(
            "no video to select an epoch on",
            where="training.select_on",
            found=settings.select_on,
            expected=f"decoded videos in the split {split} of {store.uri}",
            cure="set training.select_on: last, or replace the videos that failed and run ingest again",
        )


def with_split(settings: TrainingSettings, metrics: dict[str, float]) -> dict[str, float]:
    """Metrics prefixed with the split they were measured on, so that test metrics never pass for validation."""
    split = "test" if settings.select_on == "test" else "val"
    return {f"{split}_{name}": value for name, value in metrics.items()}
