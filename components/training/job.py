"""One training as a value: what every process of it builds the same method and reads the same frames from."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from components import provenance, storage
from components.adapters.card import TrainingFacts
from components.adapters.file import save_adapter
from components.backbones.clip import load_backbone, parameter_total
from components.backbones.settings import BackboneSettings
from components.cluster import RaySettings
from components.fingerprint import code_of
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.base import Method
from components.methods.build import build
from components.methods.entries import targets
from components.processes import rank_and_world
from components.task import TaskSettings
from components.training.batches import check_workers
from components.training.checkpoint import Checkpoints
from components.training.loader import training_videos
from components.training.loop import Log, Result, Validate, fit
from components.training.settings import ExecutionSettings, TrainingSettings
from components.training.watchdog import Watchdog


@dataclass(frozen=True)
class Plan:
    """What is known of a training before it starts; found out once, for all machines that take part.

    Args:
        key: hex SHA-256 of everything that decides about the result.
        trains: whether the method has trainable parameters.
        store: fingerprint of the frame store.
        frames: path or URI of the frame store.
        came_from: as :func:`components.provenance.collect` gives it.
    """

    key: str
    trains: bool
    store: str
    frames: str
    came_from: dict[str, Any]


class Blocks(Protocol):
    """The blocks of params.yaml that a training reads."""

    @property
    def backbone(self) -> BackboneSettings:
        """Which CLIP."""

    @property
    def training(self) -> TrainingSettings:
        """What decides the result."""

    @property
    def execution(self) -> ExecutionSettings:
        """What does not."""

    @property
    def ray(self) -> RaySettings:
        """The local cluster."""

    def task(self, name: str) -> TaskSettings:
        """An entry of ``tasks``."""

    def method(self, name: str) -> Mapping[str, Any]:
        """An entry of ``methods``."""


@dataclass(frozen=True)
class Job:
    """What is trained, and where.

    Args:
        root: the project's folder, absolute. Workers only read it, and of it only the backbone's files and, unless that
            is at a URI, the frame store.
        task: key in params.yaml.
        method: key in params.yaml.
        seed: fixes the initial parameters, the batches and every other draw.
        collection: the task's entry.
        backbone: which CLIP.
        raw: the method's entry, unchecked.
        training: what decides the result.
        execution: what does not.
        ray: the local cluster.
    """

    root: Path
    task: str
    method: str
    seed: int
    collection: TaskSettings
    backbone: BackboneSettings
    raw: Mapping[str, Any]
    training: TrainingSettings
    execution: ExecutionSettings
    ray: RaySettings

    @classmethod
    def of(cls, root: Path, params: Blocks, task: str, method: str, seed: int) -> Job:
        """The training of an entry of ``methods`` on an entry of ``tasks``.

        Raises:
            ConfigError: unknown task or method.
        """
        return cls(
            root=root,
            task=task,
            method=method,
            seed=seed,
            collection=params.task(task),
            backbone=params.backbone,
            raw=params.method(method),
            training=params.training,
            execution=params.execution,
            ray=params.ray,
        )

    @property
    def name(self) -> str:
        """Task, method and seed in one word."""
        return f"{self.task}-{self.method}-{self.seed}"

    @property
    def adapter_folder(self) -> Path:
        """Where the finished adapter is published."""
        return Layout(self.root).adapter(self.task, self.method, self.seed)

    def store(self) -> FrameStore:
        """The task's frames."""
        return FrameStore(Layout(self.root).frames(self.task))

    def build(self) -> Method:
        """The method with its initial parameters, the same in every process.

        Raises:
            ConfigError: unknown task or method, or settings that do not fit.
            BackboneError: no such backbone, or no weights.
        """
        backbone = load_backbone(self.backbone, self.root)
        torch.manual_seed(self.seed)
        task = self.collection
        return build(self.method, self.raw, backbone, frames=task.frames, words=task.words)

    def settings(self) -> dict[str, Any]:
        """The settings that this training depends on."""
        return {
            "task": asdict(self.collection),
            "backbone": asdict(self.backbone),
            "method": dict(self.raw),
            "training": asdict(self.training),
            "execution": asdict(self.execution),
        }

    def plan(self) -> Plan:
        """Builds the method once, so that every fault of the settings, the weights or the store shows at once.

        The key covers settings, weights, frames, code and PyTorch's version.

        Raises:
            ReelTuneError: as :meth:`build`; no frame store, or too few training videos in it.
        """
        method, store = self.build(), self.store()
        trains = bool(method.trainable())
        if trains:
            training_videos(store, self.training)
            check_workers(self.execution.workers, self.training.micro_batches)
        content = {
            "name": self.name,
            "frames": method.frames,
            "words": method.words,
            "method": asdict(method.settings),
            "training": asdict(self.training),
            "backbone": method.spec.to_dict(),
            "store": store.fingerprint,
            "code": code_of("train", targets(method.name)).sha256,
            "torch": torch.__version__,
        }
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return Plan(key, trains, store.fingerprint, store.uri, provenance.collect(self.root))

    def work_folder(self, key: str) -> str:
        """Where checkpoints and the unpublished adapter lie, as a path or URI that all processes of the training see.

        A training with other settings never finds them.
        """
        place = storage.resolve(self.root, self.execution.storage or str(Layout(self.root).training_work))
        return storage.join(place, f"{self.name}-{key[:12]}")


def run(
    job: Job,
    plan: Plan,
    device: torch.device,
    validate: Validate | None,
    log: Log | None,
    report: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Trains in this process (one of a group, or alone); rank 0 writes ``adapter/`` in the work folder.

    Args:
        job: what to train.
        plan: of the job.
        device: to train on.
        validate: as for :func:`components.training.loop.fit`.
        log: the same.
        report: as for :class:`components.training.watchdog.Watchdog`.

    Returns:
        The figures of training.json that only the training knows, and the curve.
    """
    method, folder, settings = job.build().to(device), job.work_folder(plan.key), job.training
    checkpoints = Checkpoints(storage.join(folder, "checkpoints"), job.execution.keep_checkpoints)
    store = FrameStore(plan.frames)
    with Watchdog(job.execution.timeout_seconds, report):
        result = fit(
            method, store, settings, job.execution, job.seed, validate=validate, checkpoints=checkpoints, log=log
        )
    total = parameter_total(method.backbone)
    if rank_and_world()[0] == 0:
        extra = TrainingFacts(
            seed=job.seed,
            epoch=result.epoch,
            parameters_total=total,
            # What decides about the result: the rest says more of this machine than of the adapter.
            training=asdict(settings),
            store=plan.store,
            training_key=plan.key,
        )
        with tempfile.TemporaryDirectory() as aside:
            save_adapter(Path(aside), method, task=job.task, provenance=plan.came_from, label=job.method, extra=extra)
            for file in Path(aside).iterdir():
                storage.upload(file, storage.join(folder, "adapter", file.name))
    return _figures(method, result, total)


def _figures(method: Method, result: Result, total: int) -> dict[str, Any]:
    trainable = sum(parameter.numel() for parameter in method.trainable().values())
    return {
        "epoch": result.epoch,
        **result.figures,
        "steps": int(result.figures["steps"]),
        "parameters": {"trainable": trainable, "total": total, "share": trainable / total},
        "curve": result.curve,
    }
