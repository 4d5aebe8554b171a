"""The cost of a training step compared with the limit: open_clip's frozen towers with one trainable vector in each.

    python bench/train.py [--parts step captions evaluation] [--rounds 5] [--videos 64]
    python bench/train.py --parts step --models ViT-B-16-SigLIP PE-Core-B-16 MobileCLIP2-B

The limit does a forward pass with fused attention, and a backward pass through the activations only, from the loss to
the vector after the first block of each tower. No method that acts in every layer can do less. Each candidate runs in a
separate process with one thread. They take turns, and medians of processor seconds are compared. Memory is the peak of
the process above its memory before the first step (which includes the weights), and the peak of live tensors, without
the libraries' scratch memory and what an allocator keeps. Weights are random, since only the shapes matter.

step        one optimiser step of batch 4 x 12 frames and 32 words (ViT-B/32), 16 x 12 (the mini backbone)
captions    the same with five captions a video, compared with one encoding of the video per caption
evaluation  encoding a test split from a frame store, with JPEG decoding, compared with the limit's forward pass
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import activations
import interleaved
import synthetic
import torch
from interleaved import Times
from torch import nn

from components.backbones import mini
from components.evaluation.encode import encode_split
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.params import load_params
from components.training.loss import info_nce
from components.training.optimiser import build_optimiser
from components.training.step import StepGradients
from models import (
    B32,
    FRAMES,
    ROOT,
    Limit,
    method_on,
    pictures,
    random_batch,
    side_of,
    tokens,
    vocabulary_of,
    words_of,
)  # fmt: skip

# Videos per batch, where it is not 2.
BATCH = {B32: 4, mini.NAME: 16}


def batch_size(model: str) -> int:
    """Videos per batch."""
    return BATCH.get(model, 2)


def limit_step(model: str) -> Callable[[], object]:
    """The limit's forward and backward pass."""
    limit, count = Limit(model), batch_size(model)
    frames, texts = pictures(side_of(model), count), tokens(vocabulary_of(model), count, words_of(model))
    scale = torch.tensor(100.0)

    def turn() -> None:
        video, text = limit(frames.float() / 127.5 - 1, texts)
        info_nce(video, text, scale).backward()
        limit.zero_grad(set_to_none=True)

    return turn


def method_step(model: str, name: str, captions: int, **changes: Any) -> Callable[[], object]:
    """One whole training step: micro-batches, loss, gradients, clipping, optimiser."""
    trained = method_on(model, name)
    settings = dataclasses.replace(load_params(ROOT / "params.yaml").training, micro_batches=1, **changes)
    optimiser = build_optimiser(trained.trainable(), trained.learning_rates(), settings.weight_decay, settings.decay)
    gradients = StepGradients(trained, settings, seed=0)
    trained.train()
    batch = random_batch(model, batch_size(model), captions)

    def turn() -> None:
        gradients.backward(batch, step=0)
        nn.utils.clip_grad_norm_(trained.trainable().values(), settings.max_grad_norm)
        optimiser.step()

    return turn


def limit_forward(model: str, videos: int) -> Callable[[], object]:
    """The limit's forward pass over the pictures and texts of a split, 16 videos at a time."""
    limit = Limit(model)
    frames, texts = pictures(side_of(model), 16), tokens(vocabulary_of(model), videos, words_of(model))

    def turn() -> None:
        with torch.no_grad():
            for start in range(0, videos, 16):
                limit(frames[: videos - start].float() / 127.5 - 1, texts[start : start + 16])

    return turn


def method_forward(model: str, name: str, store: str) -> Callable[[], object]:
    """The project's evaluation of a split, from JPEG frames to embeddings."""
    encoder, frames = method_on(model, name).eval(), FrameStore(store)
    # Without a cache, each turn reads and decodes all frames again.
    reader = FrameReader(frames, encoder.backbone.resize, FRAMES, cache_mib=0)
    return lambda: encode_split(encoder, frames, reader, "test", 16)


def prepare(name: str, arguments: dict[str, Any]) -> Callable[[], object]:
    """What one turn of candidate ``name`` does."""
    torch.set_num_threads(1)
    model, (kind, *rest) = arguments["model"], name.split()
    if arguments["part"] == "evaluation":
        videos = arguments["videos"]
        return limit_forward(model, videos) if kind == "limit" else method_forward(model, kind, arguments["store"])
    if kind == "limit":
        return limit_step(model)
    captions = 5 if "captions" in rest else 1
    return method_step(model, kind, captions, checkpoint_activations="checkpointed" in rest)


def step(model: str, rounds: int) -> None:
    """Prints time and memory of a step."""
    names = ["limit", "mv_adapter", "mv_adapter checkpointed", "vop", "vop checkpointed"]
    times = interleaved.measure(__file__, names, rounds, {"part": "step", "model": model})
    print(f"\nstep, {model}, {batch_size(model)} videos x {FRAMES} frames, {words_of(model)} words")
    print(f"{'':28}{'s':>8}{'of limit':>10}{'MiB':>9}{'of limit':>10}{'tensors':>9}{'of limit':>10}", flush=True)
    arguments, limit = {"part": "step", "model": model}, times["limit"]
    of_limit = activations.peak_mib(prepare("limit", arguments))
    for name, taken in times.items():
        tensors = activations.peak_mib(prepare(name, arguments))
        line = f"{name:28}{taken.seconds:>8.3f}{taken.seconds / limit.seconds:>10.2f}"
        line += f"{taken.memory_mib:>9.0f}{taken.memory_mib / limit.memory_mib:>10.2f}"
        print(f"{line}{tensors:>9.0f}{tensors / of_limit:>10.2f}", flush=True)


def captions(model: str, rounds: int) -> None:
    """Prints the time per caption with five captions a video."""
    names = ["mv_adapter", "mv_adapter captions", "vop", "vop captions"]
    times = interleaved.measure(__file__, names, rounds, {"part": "captions", "model": model})
    print(f"\ncaptions, {model}: seconds per caption, the video encoded once per caption and once for five")
    for name in ("mv_adapter", "vop"):
        one, five = (taken.seconds / batch_size(model) for taken in (times[name], times[f"{name} captions"]))
        print(f"{name:28}{one:>8.3f}{five / 5:>8.3f}{one / (five / 5):>8.1f} times less")


def evaluation(model: str, rounds: int, videos: int) -> None:
    """Prints the time of encoding a split."""
    side = 96 if model == mini.NAME else side_of(model)
    with tempfile.TemporaryDirectory() as folder:
        synthetic.write_store(Path(folder), videos, synthetic.smooth(FRAMES, side))
        arguments = {"part": "evaluation", "model": model, "store": folder, "videos": videos}
        times = interleaved.measure(__file__, ["limit", "zero_shot", "mv_adapter", "vop"], rounds, arguments)
    report(f"evaluation, {model}, {videos} videos x {FRAMES} frames of {side} px: seconds", times)


def report(title: str, times: dict[str, Times]) -> None:
    """Prints seconds and their ratio to the limit's."""
    print(f"\n{title}")
    for name, taken in times.items():
        print(f"{name:28}{taken.seconds:>9.2f}{taken.seconds / times['limit'].seconds:>8.2f} of the limit", flush=True)


def main() -> None:
    """Runs all parts for both sizes, or serves one candidate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["step", "captions", "evaluation"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--models", nargs="+", default=list(BATCH), help="open_clip models of any family, or mini")
    parser.add_argument("--rounds", type=int, default=5, help="counted turns of each candidate")
    parser.add_argument("--videos", type=int, default=64, help="videos in the evaluated split")
    args = interleaved.arguments(parser, prepare)
    for model in args.models:
        if "step" in args.parts:
            step(model, args.rounds)
        if "captions" in args.parts:
            captions(model, args.rounds)
        if "evaluation" in args.parts:
            evaluation(model, args.rounds, args.videos)


if __name__ == "__main__":
    main()
