"""Search over settings with Ray Tune: real trainings, judged on validation, the weak ones stopped early.

A trial is one training in one process, with the batches of ``pipelines/train.py`` with one worker. Asynchronous
successive halving (Li et al., MLSys 2020) decides after which epoch a trial stops: of the trials that reach a rung, one
in ``reduction`` continues. The test split is never used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import torch

from components.captions.file import CARD, read_captions, uses_captions
from components.cluster import ray_session
from components.errors import ConfigError, TrainingError
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.base import Method
from components.params import load_params
from components.samecode import on_worker
from components.training.job import Job
from components.training.loop import fit
from components.training.search_space import Choice, Range, Space, start_values
from components.training.selection import Validate
from components.training.trial import METRIC, Trial

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """What a search tries.

    Args:
        job: Task, method, seed and the settings that are not searched.
        overrides: The ``key=value`` strings that changed params.yaml for ``job``.
        space: The values tried for each dotted key of params.yaml.
        trials: The number of trainings. The first one uses the values of params.yaml if the space holds them.
        grace: Epochs before a trial may be stopped.
        reduction: Of the trials that reach a rung, one in this many continues.
    """

    job: Job
    overrides: tuple[str, ...]
    space: Space
    trials: int
    grace: int = 1
    reduction: int = 3

    @property
    def name(self) -> str:
        """Task, method, seed and a hash of everything that decides the trials."""
        content = [self.job.settings(), {k: repr(v) for k, v in self.space.items()}, self.grace, self.reduction]
        content += [self.trials, self.job.store().training_fingerprint]
        captions = Layout(self.job.root).captions(self.job.task)
        if uses_captions(self.job.raw) and (captions / CARD).exists():
            content.append(read_captions(captions).card.fingerprint)
        return f"{self.job.name}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]}"

    @property
    def folder(self) -> Path:
        """Ray Tune's state. A search that was stopped continues from it."""
        return Layout(self.job.root).work / "tune" / self.name


class Follow(Protocol):
    """Follows the trials while they run, in the process that called :func:`search`.

    It is saved with the search's state and continues after a restart, so it must be picklable.
    """

    def started(self, trial: str, values: Mapping[str, Any]) -> None:
        """A trial starts, or starts again, with these values of the searched settings."""

    def measured(self, trial: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """A trial has finished an epoch, with these validation metrics."""

    def ended(self, trial: str, failed: bool) -> None:
        """A trial has finished, was stopped early, or failed."""


def search(plan: Search, validate: Validate, follow: Follow) -> list[Trial]:
    """Runs or continues all trials on the Ray cluster, as many at a time as it has cores (or GPUs).

    Args:
        plan: What to try.
        validate: Measures the validation split. It must be picklable.
        follow: Follows every trial.

    Returns:
        All trials, the best first.

    Raises:
        TrainingError: There is no validation split, or no trial was measured.
        ReelTuneError: As :meth:`Job.plan`, before any trial starts.
    """
    if not plan.job.plan().trains:
        raise ConfigError("the method trains nothing", where=f"methods.{plan.job.method}")
    if not plan.job.store().ids("val"):
        raise TrainingError("no validation split to judge trials on", where=plan.job.store().uri)
    plan.folder.mkdir(parents=True, exist_ok=True)
    # Ray Tune's loggers would write what the follower logs a second time, and they warn about "R@1".
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Seconds between two saves of the search's state. Trials that end in between are trained again after a kill.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    with ray_session(plan.job.ray, log_to_driver=False):
        # Ray Tune would report that it finds no files of the loggers that are turned off above.
        logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
        grid = _tuner(plan, validate, follow).fit()
    trials = [_outcome(result) for result in grid]
    if not any(trial.epoch for trial in trials):
        reasons = "; ".join(sorted({trial.error for trial in trials}))
        raise TrainingError("every trial failed", where=plan.name, found=reasons, cure="narrow the search")
    return sorted(trials, key=lambda trial: trial.order)


def _tuner(plan: Search, validate: Validate, follow: Follow) -> Any:
    import ray
    from ray import tune
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    gpus = ray.cluster_resources().get("GPU", 0)
    bound = tune.with_parameters(on_worker(_train_once), plan=plan, validate=validate)
    trainable = tune.with_resources(bound, {"cpu": 1, **({"gpu": 1} if gpus else {})})
    if tune.Tuner.can_restore(str(plan.folder)):
        logger.info("continuing the search in %s", plan.folder)
        return tune.Tuner.restore(str(plan.folder), trainable, resume_unfinished=True, restart_errored=True)
    epochs, start = plan.job.training.epochs, start_values(plan.job, plan.space)
    return tune.Tuner(
        trainable,
        param_space={key: _domain(values) for key, values in plan.space.items()},
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            num_samples=plan.trials,
            search_alg=BasicVariantGenerator(points_to_evaluate=[start] if start else None, random_state=plan.job.seed),
            scheduler=AsyncHyperBandScheduler(
                time_attr="epoch",
                max_t=epochs,
                grace_period=min(plan.grace, epochs),
                reduction_factor=plan.reduction,
            ),
        ),
        run_config=tune.RunConfig(
            name=plan.name, storage_path=str(plan.folder.parent), verbose=0, callbacks=[_callback(follow)]
        ),
    )


def _callback(follow: Follow) -> Any:
    from ray import tune

    class Callback(tune.Callback):
        """Ray Tune's interface. It is defined here because Ray may be imported only after :func:`ray_session`."""

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            follow.started(trial.trial_id, trial.config)

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            follow.measured(trial.trial_id, int(result["epoch"]), _metrics(result))

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            follow.ended(trial.trial_id, failed=False)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            follow.ended(trial.trial_id, failed=True)

    return Callback()


def _domain(values: Range | Choice) -> Any:
    from ray import tune

    if isinstance(values, Choice):
        return tune.choice(list(values.values))
    if values.whole:
        return tune.randint(int(values.low), int(values.high) + 1)
    return tune.loguniform(values.low, values.high)


@dataclass(frozen=True)
class _Reporting:
    """Validation that also reports to Ray Tune, which may end the trial at this point."""

    validate: Validate
    epochs: Iterator[int] = field(default_factory=lambda: count(1))

    def check(self, device: torch.device) -> None:
        self.validate.check(device)

    def __call__(self, method: Method, store: FrameStore, reader: FrameReader) -> dict[str, float]:
        from ray import tune

        metrics = self.validate(method, store, reader)
        tune.report({**metrics, "epoch": next(self.epochs)})
        return metrics


def _train_once(values: dict[str, Any], plan: Search, validate: Validate) -> None:
    """What Ray Tune runs in a separate process per trial."""
    # As JSON, since Python may print a float without the point that YAML 1.2 requires of a number.
    overrides = [*plan.overrides, *(f"{key}={json.dumps(value)}" for key, value in values.items())]
    params = load_params(Layout(plan.job.root).params, overrides)
    job = Job.of(plan.job.root, params, plan.job.task, plan.job.method, plan.job.seed)
    training = replace(job.training, validation_every=1, select_on="last")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(training.threads)
    method, store = job.build().to(device), job.store()
    captions = job.frame_captions(method, store)
    fit(
        method,
        store,
        training,
        job.execution,
        job.seed,
        validate=_Reporting(validate),
        frame_captions=None if captions is None else captions.of_video,
    )


def _outcome(result: Any) -> Trial:
    found = result.metrics or {}
    error = " ".join(str(result.error).split())[-300:] if result.error is not None else ""
    return Trial(dict(result.config or {}), int(found.get("epoch", 0)), _metrics(found), error)


def _metrics(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items() if name.startswith(("t2v_", "v2t_"))}
