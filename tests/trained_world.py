"""The project in miniature after training and evaluation: untrained adapters, saved, scored and ready to register."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import tiny_world
import torch

from components.adapters.card import TrainingFacts, read_card
from components.adapters.file import save_adapter
from components.adapters.record import ParameterCount, TrainingRecord, write_training
from components.backbones.clip import load_backbone
from components.evaluation.card import Identity, Parameters
from components.evaluation.encode import encode_split
from components.evaluation.scorecard import make_scorecard, write_scorecard
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method
from components.methods.build import build
from components.params import Params

TASK = tiny_world.TASK
METHODS = ("vop", "mv_adapter")
# Scalars of the mini backbone.
TOTAL = 1_377_824


def write_trained(root: Path, methods: Sequence[str] = METHODS, seeds: Sequence[int] = (0,)) -> Params:
    """A project with one adapter and its scorecards per method and seed."""
    tiny_world.write_project(root)
    params = tiny_world.params(root)
    for method in methods:
        for seed in seeds:
            add_adapter(root, params, method, seed)
    return params


def add_adapter(root: Path, params: Params, method: str, seed: int) -> None:
    """Adapter, training figures and scorecards of one method and seed, with parameters drawn from the seed."""
    backbone = load_backbone(params.backbone, root)
    torch.manual_seed(seed)
    task = params.task(TASK)
    made = build(method, params.method(method), backbone, frames=task.frames, words=task.words).eval()
    for parameter in made.trainable().values():
        torch.nn.init.normal_(parameter, std=0.05)
    folder = root / "outputs" / "adapters" / TASK / f"{method}-{seed}"
    save_adapter(folder, made, task=TASK, provenance={"commit": None}, extra=TrainingFacts(parameters_total=TOTAL))
    write_training(folder, _record(made, method, seed))
    with (folder / "curves.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("epoch", "step", "loss", "t2v_R@1"), (1, 3, 2.0, 12.5), (2, 6, 1.5, 25.0)])
    score(root, made, seed)


def _record(method: Method, label: str, seed: int) -> TrainingRecord:
    trainable = sum(parameter.numel() for parameter in method.trainable().values())
    return TrainingRecord(
        task=TASK,
        method=label,
        seed=seed,
        epoch=2,
        steps=6,
        seconds=1.5,
        samples_per_second=32.0,
        data_wait_share=0.0,
        parameters=ParameterCount(trainable, TOTAL, trainable / TOTAL),
        workers=1,
        epochs=2,
        batch_size=8,
        total_seconds=2.0,
        artifact_bytes=4 * trainable,
        validation={"t2v_R@1": 25.0},
        provenance={"commit": None},
        training_key="0" * 64,
    )


def score(root: Path, method: Method, seed: int) -> None:
    """Both scorecards of a method."""
    store = FrameStore(root / "outputs" / "frames" / TASK)
    reader = FrameReader(store, method.backbone.resize, method.frames, cache_mib=1)
    adapter = read_card(root / "outputs" / "adapters" / TASK / f"{method.name}-{seed}")
    identity = Identity(
        task=TASK,
        method=method.name,
        seed=seed,
        parameters=Parameters(trainable=1),
        adapter_sha256=adapter.sha256,
        store=store.fingerprint,
    )
    for split in ("val", "test"):
        card = make_scorecard(encode_split(method, store, reader, split, 8), store.manifest, split, identity)
        write_scorecard(root / "outputs" / "scorecards" / TASK / f"{method.name}-{seed}", card)


def set_metric(root: Path, method: str, seed: int, value: float, **changes: object) -> None:
    """Replaces the validation figure that decides about the alias, and fields of the card."""
    path = root / "outputs" / "scorecards" / TASK / f"{method}-{seed}" / "val.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    card["metrics"]["all"]["t2v"]["R@1"] = value
    path.write_text(json.dumps({**card, **changes}), encoding="utf-8")
