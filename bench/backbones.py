"""Backbones on one collection, untrained and with methods: recall with its interval next to what it costs.

    dvc repro ingest
    python bench/backbones.py --task shapes-clips --methods zero_shot vop mv_adapter
    python bench/backbones.py --task msrvtt --backbones ViT-B-32=openai PE-Core-B-16=meta ViT-B-16-SigLIP2=webli

A backbone is ``MODEL=WEIGHTS``, as ``backbone.model`` and ``backbone.pretrained`` take them. ``MODEL=random`` has no
recall and shows only what it costs. `--forms` adds towers of the embedded backbone's size in the form of each family,
with random weights. Trainings are those of `pipelines/train.py` with one worker. Each row is kept as a line of JSON in
reports/backbones.jsonl, and a training with a line for the same settings and code is not repeated.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from all_methods import one
from measure import Bench

from components.backbones.clip import Backbone
from components.backbones.load import load_backbone, untrained
from components.backbones.settings import BackboneSettings
from components.methods.build import build
from components.params import Params, load_params
from components.report.count import count, meta_backbone
from components.report.tables import Table, markdown
from models import pictures

RANDOM = "random"
FORMS = Path(__file__).with_name("forms")
VIDEOS = 8


def parse(text: str) -> BackboneSettings:
    """``MODEL=WEIGHTS``."""
    model, _, weights = text.partition("=")
    return BackboneSettings(model=model, pretrained=weights or RANDOM)


def costs(params: Params, task: str, method: str, settings: BackboneSettings, root: Path) -> dict[str, float]:
    """Trained parameters, multiply-adds of a video, bytes of the adapter and videos per second of this process."""
    collection, raw = params.task(task), params.method(method)
    counted = count(method, raw, meta_backbone(settings.model, root), frames=collection.frames, words=collection.words)
    backbone = loaded(settings, root)
    model = build(method, raw, backbone, frames=collection.frames, words=collection.words).eval()
    side = backbone.spec.image_size
    frames = backbone.normalize(pictures(side, VIDEOS, collection.frames))
    mask = torch.ones(VIDEOS, collection.frames, dtype=torch.bool)
    with torch.inference_mode():
        seconds = Bench(smoke=False).seconds(lambda: model.encode_video(frames, mask), warm=1)
    return {
        "trained": counted.trainable,
        "backbone_parameters": counted.total,
        "video_macs": counted.video_macs_run,
        "adapter_bytes": counted.artifact_bytes if counted.trainable else 0,
        "videos_per_second": VIDEOS / seconds,
    }


def loaded(settings: BackboneSettings, root: Path) -> Backbone:
    """The backbone with its weights, or with random ones."""
    return untrained(settings.model, root) if settings.pretrained == RANDOM else load_backbone(settings, root)


def row(record: dict[str, Any]) -> list[str]:
    """The cells of a record."""
    recalls = ["-", "-"]
    if "metrics" in record:
        recalls = []
        for direction in ("t2v", "v2t"):
            low, high = record["intervals"]["all"][direction]["R@1"]
            recalls.append(f"{record['metrics']['all'][direction]['R@1']:.1f} [{low:.1f}, {high:.1f}]")
    return [
        record["backbone"],
        record["method"],
        *recalls,
        f"{record['trained']:,}",
        f"{record['video_macs'] / 1e9:.2f}",
        f"{record['videos_per_second']:.1f}",
        f"{record['adapter_bytes'] / 1e6:.2f}",
        f"{record['backbone_parameters'] / 1e6:.1f}",
    ]


HEAD = ["backbone", "method", "t2v R@1", "v2t R@1", "trained", "GMACs", "videos/s", "adapter MB", "backbone M"]


def main() -> None:
    """Runs all combinations and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=".")
    parser.add_argument("--task", default="shapes-clips")
    parser.add_argument("--backbones", nargs="+", help="MODEL=WEIGHTS (default: the task's backbone)")
    parser.add_argument("--methods", nargs="+", default=["zero_shot", "vop", "mv_adapter"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forms", action="store_true", help="adds the families' forms with random weights")
    parser.add_argument("--costs", action="store_true", help="trains and tests nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(args.root).resolve()
    params = load_params(root / "params.yaml")
    backbones = [parse(text) for text in args.backbones or ()] or [params.backbone_of(args.task)]
    if args.forms:
        backbones += [BackboneSettings(str(form), RANDOM) for form in sorted(FORMS.glob("*.json"))]
    path = root / "reports" / "backbones.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {record["training_key"]: record for record in map(json.loads, lines) if "training_key" in record}
    rows = []
    for settings in backbones:
        entry = replace(params.task(args.task), backbone=settings)
        of_task = replace(params, tasks={**params.tasks, args.task: entry})
        for method in args.methods:
            name = Path(settings.model).stem if settings.model.endswith(".json") else settings.model
            record: dict[str, Any] = {"backbone": f"{name} ({Path(settings.pretrained).name})", "method": method}
            if settings.pretrained != RANDOM and not args.costs:
                record |= one(root, of_task, args.task, method, args.seed, done)
            record |= costs(of_task, args.task, method, settings, root)
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
            rows.append(row(record))
            print("  ".join(rows[-1]), flush=True)
    title = f"{args.task}, one thread, test split"
    print("\n" + markdown(Table(title, [("", len(HEAD))], HEAD, rows, [[False] * len(HEAD) for _ in rows])))


if __name__ == "__main__":
    main()
