"""Search over settings with Ray Tune: trials that train for real, judged on validation, the weak ones stopped early.

A trial is one training in one process, of the same batches as ``pipelines/train.py`` with one worker. Which epoch a
trial is stopped after is decided by asynchronous successive halving (Li et al., MLSys 2020): of the trials that reach
a rung, one in ``reduction`` goes on. The test split is never looked at.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import torch

from components import config
from components.cluster import ray_session
from components.errors import ConfigError, TrainingError
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.base import Method
from components.params import load_params
from components.training.job import Job
from components.training.loop import Validate, fit

logger = logging.getLogger(__name__)

METRIC = "t2v_R@1"
_RANGE = re.compile(r"(?P<low>[^,]+?)\.\.(?P<high>[^,]+)")


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds: whole ones uniformly, others uniformly in their logarithm."""

    low: float
    high: float
    whole: bool

    def holds(self, value: object) -> bool:
        """Whether ``value`` may be drawn."""
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def holds(self, value: object) -> bool:
        """Whether ``value`` may be drawn."""
        return value in self.values


@dataclass(frozen=True)
class Search:
    """What is tried.

    Args:
        job: task, method, seed and the settings that are not searched.
        overrides: ``key=value`` strings that made ``job.params`` out of params.yaml.
        space: dotted key of params.yaml to the values tried.
        trials: number of trainings; the first one has the values of params.yaml where the space is a range.
        grace: epochs before a trial may be stopped.
        reduction: one trial in so many goes on from a rung.
    """

    job: Job
    overrides: tuple[str, ...]
    space: Mapping[str, Range | Choice]
    trials: int
    grace: int = 1
    reduction: int = 3

    @property
    def name(self) -> str:
        """Task, method, seed and a hash of all that decides about the trials."""
        content = [self.job.settings(), {k: repr(v) for k, v in self.space.items()}, self.grace, self.reduction]
        content += [self.trials, self.job.store().fingerprint]
        return f"{self.job.name}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]}"

    @property
    def folder(self) -> Path:
        """Where Ray Tune keeps its state: a search that was stopped goes on from there."""
        return Layout(self.job.root).work / "tune" / self.name


class Follow(Protocol):
    """Hears of trials while they run, in the process that called :func:`search`.

    It is saved with the search's state and goes on after a restart, so it must be picklable.
    """

    def started(self, trial: str, values: Mapping[str, Any]) -> None:
        """A trial starts, or starts again, with these values of the searched settings."""

    def measured(self, trial: str, epoch: int, figures: Mapping[str, float]) -> None:
        """It has finished an epoch, with these validation figures."""

    def ended(self, trial: str, failed: bool) -> None:
        """It has ended: finished, stopped early, or failed."""


@dataclass(frozen=True)
class Trial:
    """The outcome of one trial.

    Args:
        overrides: dotted key to value.
        epoch: the last one measured, 0 if it failed before.
        figures: validation figures of that epoch.
        error: why it failed, else empty.
    """

    overrides: dict[str, Any]
    epoch: int
    figures: dict[str, float]
    error: str = ""

    @property
    def order(self) -> tuple[int, float]:
        """Later epochs first, then the better ones: what was stopped early was the weaker."""
        return -self.epoch, -self.figures.get(METRIC, 0.0)


def parse_space(items: Sequence[str], method: str) -> dict[str, Range | Choice]:
    """``key=low..high`` and ``key=a,b,c``; a key without a dot is one of the method's settings.

    Raises:
        ConfigError: no such form, or bounds that are no range.
    """
    space: dict[str, Range | Choice] = {}
    for item in items:
        key, sep, text = item.partition("=")
        if not sep or not key or not text:
            raise ConfigError("not a search space", where="--search", found=item, expected="key=low..high or key=a,b,c")
        key = key if "." in key else f"methods.{method}.{key}"
        match = _RANGE.fullmatch(text)
        if match is None:
            space[key] = Choice(tuple(config.parse_yaml(part, f"--search {key}") for part in text.split(",")))
            continue
        low, high = (config.parse_yaml(match[name], f"--search {key}") for name in ("low", "high"))
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (low, high))
        whole = numbers and isinstance(low, int) and isinstance(high, int)
        if not numbers or not low < high or (not whole and low <= 0):
            raise ConfigError(
                "not a range", where=f"--search {key}", found=text, expected="low..high, low < high, fractions above 0"
            )
        space[key] = Range(low, high, whole)
    return space


def default_space(job: Job) -> dict[str, Range | Choice]:
    """The learning rate, a factor of ten around that of params.yaml.

    Raises:
        ConfigError: the method has no learning rate of its own.
    """
    lr = job.raw.get("lr")
    if lr is None:
        raise ConfigError(
            "nothing to search by default", where=f"methods.{job.method}", expected="--search key=low..high"
        )
    return {f"methods.{job.method}.lr": Range(lr / 10, lr * 10, whole=False)}


def search(plan: Search, validate: Validate, follow: Follow) -> list[Trial]:
    """Runs, or goes on with, all trials on the Ray cluster: as many at a time as it has cores (or GPUs).

    Args:
        plan: what is tried.
        validate: measures the validation split; must be picklable.
        follow: hears of every trial.

    Returns:
        All trials, the best first.

    Raises:
        TrainingError: no trial came to a measurement.
        ReelTuneError: as :meth:`Job.plan`, before any trial starts.
    """
    if not plan.job.plan().trains:
        raise ConfigError("the method trains nothing", where=f"methods.{plan.job.method}")
    if not plan.job.store().ids("val"):
        raise TrainingError("no validation split to judge trials on", where=plan.job.store().uri)
    plan.folder.mkdir(parents=True, exist_ok=True)
    # Ray Tune's own loggers write what the follower logs once more, and complain about "R@1".
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Seconds between two records of the search's state: trials that end in between are trained again after a kill.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    with ray_session(plan.job.root, plan.job.ray, log_to_driver=False):
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
    bound = tune.with_parameters(_train_once, plan=plan, validate=validate)
    trainable = tune.with_resources(bound, {"cpu": 1, **({"gpu": 1} if gpus else {})})
    storage = plan.folder.parent
    if tune.Tuner.can_restore(str(plan.folder)):
        logger.info("going on with the search in %s", plan.folder)
        return tune.Tuner.restore(str(plan.folder), trainable, resume_unfinished=True, restart_errored=True)
    epochs = plan.job.training.epochs
    start = _start(plan)
    return tune.Tuner(
        trainable,
        param_space={key: _domain(space) for key, space in plan.space.items()},
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
        run_config=tune.RunConfig(name=plan.name, storage_path=str(storage), verbose=0, callbacks=[_callback(follow)]),
    )


def _callback(follow: Follow) -> Any:
    from ray import tune

    class Callback(tune.Callback):
        """Ray Tune's own interface; here, since Ray may be imported only after :func:`ray_session` has set it up."""

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            follow.started(trial.trial_id, trial.config)

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            follow.measured(trial.trial_id, int(result["epoch"]), _figures(result))

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            follow.ended(trial.trial_id, failed=False)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            follow.ended(trial.trial_id, failed=True)

    return Callback()


def _start(plan: Search) -> dict[str, Any]:
    """The values of params.yaml for the keys whose space holds them."""
    found = {}
    for key, space in plan.space.items():
        part, _, rest = key.partition(".")
        tree: Any = plan.job.raw if (part, rest.partition(".")[0]) == ("methods", plan.job.method) else None
        value = tree.get(rest.partition(".")[2]) if isinstance(tree, dict) else None
        if space.holds(value):
            found[key] = value
    return found


def _domain(space: Range | Choice) -> Any:
    from ray import tune

    if isinstance(space, Choice):
        return tune.choice(list(space.values))
    if space.whole:
        return tune.randint(int(space.low), int(space.high) + 1)
    return tune.loguniform(space.low, space.high)


@dataclass(frozen=True)
class _Reporting:
    """Validation that also tells Ray Tune, which may end the trial here."""

    validate: Validate
    epochs: Iterator[int] = field(default_factory=lambda: count(1))

    def __call__(self, method: Method, store: FrameStore, reader: FrameReader) -> dict[str, float]:
        from ray import tune

        figures = self.validate(method, store, reader)
        tune.report({**figures, "epoch": next(self.epochs)})
        return figures


def _train_once(values: dict[str, Any], plan: Search, validate: Validate) -> None:
    """What Ray Tune runs in a process of its own."""
    # As JSON, since a float's own text may lack the point that YAML 1.2 asks of a number.
    overrides = [*plan.overrides, *(f"{key}={json.dumps(value)}" for key, value in values.items())]
    params = load_params(plan.job.root / "params.yaml", overrides)
    job = Job.of(plan.job.root, params, plan.job.task, plan.job.method, plan.job.seed)
    training = replace(job.training, validation_every=1, select_on="last")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(training.threads)
    fit(job.build().to(device), job.store(), training, job.execution, job.seed, validate=_Reporting(validate))


def _outcome(result: Any) -> Trial:
    found = result.metrics or {}
    error = " ".join(str(result.error).split())[-300:] if result.error is not None else ""
    return Trial(dict(result.config or {}), int(found.get("epoch", 0)), _figures(found), error)


def _figures(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items() if name.startswith(("t2v_", "v2t_"))}


def table(trials: Sequence[Trial], epochs: int) -> str:
    """For a terminal: a line per trial, the best first, and the overrides that repeat the best one."""
    lines = ["   epoch  val t2v R@1  val v2t R@1  settings"]
    for trial in trials:
        stopped = " " if trial.epoch == epochs else "<"
        figures = [trial.figures.get(name, float("nan")) for name in (METRIC, "v2t_R@1")]
        chosen = trial.error or _overrides(trial)
        lines.append(f"{trial.epoch:>7} {stopped}{figures[0]:>12.1f}{figures[1]:>13.1f}  {chosen}")
    if any(trial.epoch < epochs for trial in trials):
        lines.append("< stopped early, or failed")
    return "\n".join([*lines, f"best: {_overrides(trials[0])}"])


def _overrides(trial: Trial) -> str:
    return " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in trial.overrides.items()
    )
