"""Trains once per combination of settings, in one process without Ray. Prints the metrics of the validation split.

    python bench/search_settings.py --task shapes-clips --method vop methods.vop.lr=3e-3,1e-2,3e-2

Commas separate the values of a key. All combinations of several keys are run. The test split is never used. Each
combination adds a line of JSON to reports/search_settings.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import torch

from components.backbones.load import load_backbone
from components.evaluation.card import Identity
from components.evaluation.encode import encode_split
from components.evaluation.scorecard import make_scorecard
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.build import build
from components.params import load_params
from components.training.loop import fit


def run(root: Path, task: str, method: str, seed: int, overrides: list[str]) -> dict[str, object]:
    """Trains once and returns the metrics on the validation split."""
    params = load_params(root / "params.yaml", overrides)
    sizes, store = params.task(task), FrameStore(Layout(root).frames(task))
    torch.manual_seed(seed)
    backbone = load_backbone(params.backbone_of(task), root)
    model = build(method, params.method(method), backbone, frames=sizes.frames, words=sizes.words)
    started = time.process_time()
    fit(model, store, params.training, params.execution, seed)
    seconds = time.process_time() - started
    model.eval()
    reader = FrameReader(store, backbone.resize, model.frames, cache_mib=0)
    identity = Identity(task=task, method=method, seed=seed)
    scorecard = make_scorecard(encode_split(model, store, reader, "val", 64), store.manifest, "val", identity)
    metrics = {
        f"{part} {direction} R@1": round(values["R@1"], 1)
        for part, both in scorecard.card.metrics.items()
        for direction, values in both.items()
    }
    return {"task": task, "method": method, "seed": seed, "settings": overrides, **metrics, "cpu_s": round(seconds)}


def main() -> None:
    """Runs all combinations, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=".")
    parser.add_argument("--task", required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*", metavar="key=value,value")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keys = [item.partition("=")[0] for item in args.settings]
    values = [item.partition("=")[2].split(",") for item in args.settings]
    out = Path(args.root) / "reports" / "search_settings.jsonl"
    out.parent.mkdir(exist_ok=True)
    for combination in itertools.product(*values):
        overrides = [f"{key}={value}" for key, value in zip(keys, combination, strict=True)]
        line = json.dumps(run(Path(args.root).resolve(), args.task, args.method, args.seed, overrides))
        print(line, flush=True)
        with out.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


if __name__ == "__main__":
    main()
