"""Runs the first step of every shipped recipe at its real sizes, and says which cards it fits.

    python bench/recipes.py [--recipes msrvtt didemo] [--json recipes.json] [--smoke]

Weights and frames are random; backbone, batch, frames, words, precision and micro-batches are the recipe's. A step
that does not fit this card is tried again with gradient caching in more micro-batches, and the line says with how
many it fits. ``--smoke`` takes the mini backbone and batches of four, on any machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from components.backbones import mini
from components.backbones.clip import Backbone
from components.backbones.load import model_config, untrained
from components.config import parse_yaml
from components.methods.base import Method
from components.methods.build import build
from components.params import Params, load_params
from components.precision import numerics
from components.recipes import apply
from components.training.optimiser import build_optimiser
from components.training.settings import TrainingSettings
from components.training.step import StepGradients
from models import ROOT, batch_of, pictures, tokens

# Memory of common cards in GiB, less a tenth for the CUDA context and fragments.
CARDS = {"24 GB": 21.6, "40 GB": 36.0, "80 GB": 72.0, "141 GB": 126.0}
# Micro-batches that are tried, with gradient caching, where a batch does not fit.
MORE = (2, 4, 8, 16)


def settings_of(recipe: Path, section: str) -> Params:
    """params.yaml with a recipe's section written into it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "params.yaml"
        shutil.copyfile(ROOT / "params.yaml", place)
        apply(place, recipe, section)
        return load_params(place)


def backbone_of(model: str) -> Backbone:
    """Random weights of this model."""
    torch.manual_seed(0)
    return untrained(model, ROOT, quick_gelu=True)


def steps(method: Method, settings: TrainingSettings, micro_batches: int, device: torch.device, count: int) -> float:
    """Seconds of the last of ``count`` whole steps."""
    method = method.to(device).train()
    optimiser = build_optimiser(method.trainable(), method.learning_rates(), settings.weight_decay, settings.decay)
    gradients = StepGradients(method, settings, seed=0)
    frames = pictures(method.spec.image_size, settings.batch_size, method.frames)
    texts = tokens(method.spec.vocab_size, settings.batch_size * settings.captions_per_video, method.words)
    batch = batch_of(frames, texts, micro_batches)
    if method.caption_loss is not None:
        of_frames = tokens(method.spec.vocab_size, settings.batch_size * method.frames, method.words)
        batch = dataclasses.replace(batch, frame_captions=of_frames.unflatten(0, (settings.batch_size, method.frames)))
    batch = batch.to(device)
    seconds = 0.0
    for _ in range(count):
        started = time.perf_counter()
        with numerics(settings.precision):
            loss = gradients.backward(batch, step=0)
            torch.nn.utils.clip_grad_norm_(list(method.trainable().values()), settings.max_grad_norm)
            optimiser.step()
        if not torch.isfinite(loss):
            raise AssertionError(f"{method.name}: loss {float(loss)} in a first step on random weights")
        seconds = time.perf_counter() - started
    return seconds


def try_method(params: Params, name: str, device: torch.device) -> dict[str, Any]:
    """Time and memory of a recipe's step with one method, and what it takes to fit."""
    task = params.task(params.run.tasks[0])
    first = 1 if params.training.micro_batches == "auto" else params.training.micro_batches
    for parts, cached in ((first, params.training.grad_cache), *((n, True) for n in MORE)):
        settings = dataclasses.replace(params.training, micro_batches=parts, grad_cache=cached)
        if parts > settings.batch_size:
            break
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        method: Method | None = None
        try:
            method = build(
                name, params.method(name), backbone_of(params.backbone.model), frames=task.frames, words=task.words
            )
            if not method.trainable():
                return {"trains": False}
            seconds = steps(method, settings, parts, device, 2)
        except torch.OutOfMemoryError:
            del method
            gc.collect()
            torch.cuda.empty_cache()
            continue
        gib = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
        fits = [card for card, memory in CARDS.items() if gib <= memory]
        return {"ms": 1e3 * seconds, "gib": gib, "micro_batches": parts, "grad_cache": cached, "fits": fits}
    return {"fits": [], "gib": float("nan"), "ms": float("nan")}


def small(params: Params) -> Params:
    """The recipe on the mini backbone, four videos a batch."""
    training = dataclasses.replace(params.training, batch_size=4, micro_batches="auto")
    backbone = dataclasses.replace(params.backbone, model=mini.NAME)
    most = int(model_config(mini.NAME, ROOT)[0]["text_cfg"]["context_length"])
    tasks = {name: dataclasses.replace(task, words=min(task.words, most)) for name, task in params.tasks.items()}
    return dataclasses.replace(params, training=training, backbone=backbone, tasks=tasks)


def told(row: dict[str, Any]) -> str:
    """A result for a terminal."""
    if "ms" not in row:
        return "trains nothing"
    more = f"  with micro_batches {row['micro_batches']} and grad_cache" if row.get("grad_cache") else ""
    return f"{row['ms']:9.1f} ms{row['gib']:8.1f} GiB  fits {', '.join(row['fits']) or 'none of these cards'}{more}"


def main() -> None:
    """A line per recipe, section and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = sorted(path.stem for path in (ROOT / "params").glob("*.yaml"))
    parser.add_argument("--recipes", nargs="+", choices=every, default=every)
    parser.add_argument("--methods", nargs="+", help="only these entries")
    parser.add_argument("--json", type=Path, help="writes the results to this file too")
    parser.add_argument("--smoke", action="store_true", help="mini backbone, small batches, any machine")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}")
    found: dict[str, dict[str, Any]] = {}
    for recipe in args.recipes:
        path = ROOT / "params" / f"{recipe}.yaml"
        for section in parse_yaml(path.read_text(encoding="utf-8"), str(path)):
            params = settings_of(path, section)
            params = small(params) if args.smoke else params
            for name in params.run.methods:
                if args.methods and name not in args.methods:
                    continue
                row = try_method(params, name, device)
                found[f"{recipe}.{section}.{name}"] = row
                shown = told(row)
                print(f"{recipe:12} {section:11} {params.backbone.model:9} {name:20} {shown}", flush=True)
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
