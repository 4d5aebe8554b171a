"""One training as a value. Every process of it builds the same method and reads the same frames from this value."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch

from components import provenance, storage
from components.adapters.card import TrainingFacts
from components.adapters.file import save_adapter
from components.adapters.record import ParameterCount
from components.backbones.clip import Backbone, parameter_total
from components.backbones.families import FAMILIES
from components.backbones.load import load_backbone
from components.backbones.naming import errors_under
from components.backbones.settings import BackboneSettings
from components.captions.file import CaptionFile
from components.cluster import RaySettings
from components.errors import ConfigError, TrainingError
from components.fingerprint import code_of
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.base import Method
from components.methods.build import build, parameter_shapes
from components.methods.entries import targets
from components.processes import rank_and_world
from components.task import TaskSettings
from components.training.batches import check_workers
from components.training.captioned import read_for_training
from components.training.checkpoint import Checkpoints
from components.training.loader import training_videos
from components.training.loop import Result, fit
from components.training.metrics import Log
from components.training.selection import EpochDone, Validate, check_selection
from components.training.settings import ExecutionSettings, TrainingSettings
from components.training.watchdog import Watchdog

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is known about a training before it starts. It is found once, for all machines that take part.

    Args:
        key: Hex SHA-256 of everything that decides the result.
        trains: Whether the method has trainable parameters.
        store: The fingerprint of what training reads of the frame store.
        frames: The path or URI of the frame store.
        provenance: Commit and package versions (:func:`components.provenance.collect`).
        captions: The fingerprint of the captions of frames. None if the method needs none.
    """

    key: str
    trains: bool
    store: str
    frames: str
    provenance: dict[str, Any]
    captions: str | None = None


class Blocks(Protocol):
    """The blocks of params.yaml that a training reads."""

    @property
    def training(self) -> TrainingSettings:
        """What decides the result."""

    @property
    def execution(self) -> ExecutionSettings:
        """What does not decide it."""

    @property
    def ray(self) -> RaySettings:
        """The local cluster."""

    def task(self, name: str) -> TaskSettings:
        """An entry of ``tasks``."""

    def method(self, name: str) -> Mapping[str, Any]:
        """An entry of ``methods``."""

    def backbone_of(self, task: str) -> BackboneSettings:
        """Which CLIP."""

    def backbone_key(self, task: str) -> str:
        """The block of params.yaml that says which."""


@dataclass(frozen=True)
class Job:
    """What is trained, and where.

    Args:
        root: The project's folder, absolute. Workers only read it: the backbone's files and, unless it is at a URI, the
            frame store.
        task: The task's key in params.yaml.
        method: The method's key in params.yaml.
        seed: Fixes the initial parameters, the batches and every other draw.
        collection: The task's entry.
        backbone: Which CLIP.
        raw: The method's entry, unchecked.
        training: What decides the result.
        execution: What does not decide it.
        ray: The local cluster.
        backbone_key: The block of params.yaml that ``backbone`` comes from.
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
    backbone_key: str = "backbone"

    @classmethod
    def of(cls, root: Path, params: Blocks, task: str, method: str, seed: int) -> Job:
        """The training of an entry of ``methods`` on an entry of ``tasks``.

        Raises:
            ConfigError: There is no such task or method.
        """
        return cls(
            root=root,
            task=task,
            method=method,
            seed=seed,
            collection=params.task(task),
            backbone=params.backbone_of(task),
            raw=params.method(method),
            training=params.training,
            execution=params.execution,
            ray=params.ray,
            backbone_key=params.backbone_key(task),
        )

    @property
    def name(self) -> str:
        """Task, method and seed, joined by hyphens."""
        return f"{self.task}-{self.method}-{self.seed}"

    @property
    def adapter_folder(self) -> Path:
        """The folder of the finished adapter."""
        return Layout(self.root).adapter(self.task, self.method, self.seed)

    def store(self) -> FrameStore:
        """The task's frames."""
        return FrameStore(Layout(self.root).frames(self.task))

    def frame_captions(self, method: Method, store: FrameStore) -> CaptionFile | None:
        """The captions of the task's training frames. None if the method needs none.

        Raises:
            DataError: They are missing or damaged.
            TrainingError: They are not of this frame store, or do not go with the settings.
        """
        if method.caption_loss is None:
            return None
        folder, where = Layout(self.root).captions(self.task), f"methods.{self.method}"
        return read_for_training(method, self.training, store, folder, self.task, where)

    def build(self) -> Method:
        """The method with its initial parameters, the same in every process.

        Raises:
            ConfigError: The method is unknown, or its settings do not fit.
            BackboneError: There is no such backbone, or its weights are missing.
        """
        return self._build(self._load_backbone())

    def _load_backbone(self) -> Backbone:
        with errors_under(self.backbone_key):
            return load_backbone(self.backbone, self.root)

    def _build(self, backbone: Backbone) -> Method:
        torch.manual_seed(self.seed)
        task = self.collection
        return build(self.method, self.raw, backbone, frames=task.frames, words=task.words)

    def _check_memory(self, backbone: Backbone) -> None:
        """Refuses parameters that this machine cannot hold, before anything is allocated for them."""
        task = self.collection
        shapes = parameter_shapes(self.method, self.raw, backbone, frames=task.frames, words=task.words)
        needed = 4 * sum(math.prod(shape) for shape in shapes.values())
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > memory:
            raise ConfigError(
                "the parameters do not fit into this machine's memory",
                where=f"methods.{self.method}",
                found=f"{needed / 2**30:.0f} GiB",
                expected=f"at most {memory / 2**30:.0f} GiB",
                cure="take smaller sizes",
            )

    def _check_frames(self, store: FrameStore) -> None:
        """A card and a scorecard would state the task's setting, so it has to be the store's."""
        made, asked = store.card.settings.frames, self.collection.frames
        if made != asked:
            raise ConfigError(
                "the frame store was made with another number of frames",
                where=f"tasks.{self.task}.frames",
                found=asked,
                expected=f"{made}, as in {store.uri}",
                cure=f"take {made}, or set it in params.yaml and run ingest for {self.task} again",
            )

    def settings(self) -> dict[str, Any]:
        """The settings that this training depends on."""
        task = asdict(self.collection)
        return {
            "task": {field.name: task[field.name] for field in fields(TaskSettings)},
            "backbone": asdict(self.backbone),
            "method": dict(self.raw),
            "training": asdict(self.training),
            "execution": asdict(self.execution),
        }

    def plan(self) -> Plan:
        """Builds the method once, so that a fault of settings, weights or store shows before anything starts.

        The key covers settings, weights, frames, code and PyTorch's version.

        Raises:
            ReelTuneError: As :meth:`build`. Also if the parameters are larger than the memory, if there is no frame
                store, it was made with other frames or has too few training videos, or the workers do not divide the
                micro-batches.
        """
        backbone = self._load_backbone()
        self._check_memory(backbone)
        method, store = self._build(backbone), self.store()
        self._check_frames(store)
        trains, captions = bool(method.trainable()), None
        if trains:
            training_videos(store, self.training)
            check_selection(store, self.training)
            found = self.frame_captions(method, store)
            captions = None if found is None else found.card.fingerprint
            if self.training.micro_batches != "auto":
                check_workers(self.execution.workers, self.training.micro_batches)
        content = {
            "name": self.name,
            "frames": method.frames,
            "words": method.words,
            "method": asdict(method.settings),
            "training": asdict(self.training),
            "backbone": method.spec.to_dict(),
            "store": store.training_fingerprint,
            "code": code_of("train", [*targets(method.name), FAMILIES.target(method.spec.family)]).sha256,
            "torch": torch.__version__,
            # Keys without it stay as they were.
            **({} if captions is None else {"captions": captions}),
        }
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return Plan(key, trains, store.training_fingerprint, store.uri, provenance.collect(self.root), captions)

    def work_folder(self, key: str) -> str:
        """The folder of checkpoints and the unpublished adapter: a path or URI that all processes of the training see.

        Its name holds the key, so a training with other settings never finds it.
        """
        place = storage.resolve(self.root, self.execution.storage or str(Layout(self.root).training_work))
        return storage.join(place, f"{self.name}-{key[:12]}")


@dataclass(frozen=True)
class Outcome:
    """What a training leaves for its record.

    Attributes:
        result: Selected epoch, curve, steps and times.
        parameters: How many scalars trained.
    """

    result: Result
    parameters: ParameterCount


def run(
    job: Job,
    plan: Plan,
    device: torch.device,
    validate: Validate | None,
    log: Log | None,
    report: Callable[[str], object] | None = None,
    epoch_done: EpochDone | None = None,
) -> Outcome:
    """Trains in this process, alone or in a group. Rank 0 writes ``adapter/`` in the work folder.

    Args:
        job: What to train.
        plan: The job's plan.
        device: The device to train on.
        validate, log, epoch_done: As for :func:`components.training.loop.fit`.
        report: As for :class:`components.training.watchdog.Watchdog`.
    """
    method, folder, settings = job.build().to(device), job.work_folder(plan.key), job.training
    checkpoints = Checkpoints(storage.join(folder, "checkpoints"), job.execution.keep_checkpoints)
    store = FrameStore(plan.frames)
    if rank_and_world()[0] == 0 and plan.trains:
        videos = len(store.ids("train"))
        logger.info("%s: %d training videos, %d epochs on %s", job.name, videos, settings.epochs, device)
    captions = job.frame_captions(method, store)
    if captions is not None and captions.card.fingerprint != plan.captions:
        raise TrainingError(
            "the captions of frames have changed since this training started",
            where=Layout(job.root).captions(job.task),
            cure="run it again: it starts from the beginning with them",
        )
    with Watchdog(job.execution.timeout_seconds, report):
        result = fit(
            method,
            store,
            settings,
            job.execution,
            job.seed,
            validate=validate,
            checkpoints=checkpoints,
            log=log,
            epoch_done=epoch_done,
            frame_captions=None if captions is None else captions.of_video,
        )
    total = parameter_total(method.backbone)
    if rank_and_world()[0] == 0:
        _save(job, plan, method, result, total)
    trainable = sum(parameter.numel() for parameter in method.trainable().values())
    return Outcome(result, ParameterCount(trainable, total, trainable / total))


def _save(job: Job, plan: Plan, method: Method, result: Result, parameters_total: int) -> None:
    """Writes the adapter into the work folder, which may be at a URI."""
    extra = TrainingFacts(
        seed=job.seed,
        epoch=result.epoch,
        parameters_total=parameters_total,
        # Only what decides the result. The execution settings describe this machine, not the adapter.
        training={**asdict(job.training), **(asdict(result.passes) if result.passes else {})},
        store=plan.store,
        training_key=plan.key,
        backbone=job.backbone,
        captions=None if plan.captions is None else {job.task: plan.captions},
    )
    with tempfile.TemporaryDirectory() as aside:
        save_adapter(Path(aside), method, task=job.task, provenance=plan.provenance, label=job.method, extra=extra)
        for file in Path(aside).iterdir():
            storage.upload(file, storage.join(job.work_folder(plan.key), "adapter", file.name))
