"""A miniature project after training and evaluation: random adapters, saved, scored and ready to register."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import tiny_world
import torch

from components.adapters.card import TrainingFacts
from components.adapters.file import save_adapter
from components.adapters.record import CURVE, ParameterCount, TrainingRecord, write_training
from components.backbones.load import load_backbone
from components.evaluation.card import Identity, Parameters
from components.evaluation.encode import encode_split
from components.evaluation.scorecard import make_scorecard, write_scorecard
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.base import Method
from components.methods.build import build
from components.params import Params

TASK = tiny_world.TASK
METHODS = ("vop", "mv_adapter")


def write_trained(root: Path, methods: Sequence[str] = METHODS, seeds: Sequence[int] = (0,)) -> Params:
    """Writes a project with one adapter and its scorecards per method and seed."""
    tiny_world.write_project(root)
    params = tiny_world.params(root)
    for method in methods:
        for seed in seeds:
            add_adapter(root, params, method, seed)
    return params


def add_adapter(root: Path, params: Params, method: str, seed: int, task: str = TASK) -> None:
    """Writes adapter, training record and scorecards of one method and seed. The seed draws the parameters."""
    backbone = load_backbone(params.backbone_of(task), root)
    torch.manual_seed(seed)
    entry = params.task(task)
    made = build(method, params.method(method), backbone, frames=entry.frames, words=entry.words).eval()
    for parameter in made.trainable().values():
        torch.nn.init.normal_(parameter, std=0.05)
    folder = Layout(root).adapter(task, method, seed)
    facts = TrainingFacts(parameters_total=1_377_824, backbone=params.backbone_of(task))
    save_adapter(folder, made, task=task, provenance={"commit": None}, extra=facts)
    write_training(folder, training_record(method, seed, task))
    with (folder / CURVE).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("epoch", "step", "loss", "t2v_R@1"), (1, 3, 2.0, 12.5), (2, 6, 1.5, 25.0)])
    score(root, made, seed, task)


def training_record(method: str, seed: int, task: str = TASK) -> TrainingRecord:
    """The record of a training of two epochs that logged nothing to MLflow."""
    return TrainingRecord(
        task=task,
        method=method,
        seed=seed,
        epoch=2,
        steps=6,
        seconds=1.5,
        samples_per_second=32.0,
        data_wait_share=0.0,
        parameters=ParameterCount(1, 2, 0.5),
        workers=1,
        epochs=2,
        batch_size=8,
        total_seconds=2.0,
        artifact_bytes=4,
        validation={"epoch": 2, "step": 6, "loss": 1.5, "t2v_R@1": 25.0},
        provenance={"commit": None},
        training_key="0" * 64,
    )


def score(root: Path, method: Method, seed: int, task: str = TASK) -> None:
    """Writes both scorecards of a method."""
    store = FrameStore(Layout(root).frames(task))
    reader = FrameReader(store, method.backbone.resize, method.frames, cache_mib=1)
    size, spec = Parameters(trainable=1), method.spec
    identity = Identity(task=task, method=method.name, seed=seed, parameters=size, backbone=spec)
    for split in ("val", "test"):
        card = make_scorecard(encode_split(method, store, reader, split, 8), store.manifest, split, identity)
        write_scorecard(Layout(root).scorecards(task, method.name, seed), card)


def set_metric(root: Path, method: str, seed: int, value: float, task: str = TASK, /, **changes: object) -> None:
    """Replaces the validation metric that decides about the alias, and fields of the card."""
    path = Layout(root).scorecards(task, method, seed) / "val.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    card["metrics"]["all"]["t2v"]["R@1"] = value
    card.update(
        {name: {**card[name], **value} if isinstance(value, dict) else value for name, value in changes.items()}
    )
    path.write_text(json.dumps(card), encoding="utf-8")
