"""The time that methods take to embed videos, as a ratio to LoRA's.

    python bench/encode.py [--models ViT-B-32-quickgelu] [--methods tempme discovla] [--rounds 7] [--videos 4]

Each method runs in a separate process with one thread. They take turns, and medians of processor seconds are compared.
Frames are already decoded and normalised. Weights are random, since only the shapes matter. Next to the times are the
multiply-adds that run, counted on the meta device.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import interleaved
import torch

from components.report.count import count, meta_backbone
from models import B16, B32, FRAMES, WORDS, method_on, side_of


def prepare(name: str, arguments: dict[str, Any]) -> Callable[[], object]:
    """Embeds random videos with method ``name``."""
    torch.set_num_threads(1)
    model, videos = arguments["model"], arguments["videos"]
    method = method_on(model, name).eval()
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(videos, FRAMES, 3, side_of(model), side_of(model), generator=generator)
    mask = torch.ones(videos, FRAMES, dtype=torch.bool)

    def turn() -> None:
        with torch.no_grad():
            method.encode_video(frames, mask)

    return turn


def main() -> None:
    """Prints a row per method, or serves one candidate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=[B32, B16], default=[B32])
    parser.add_argument("--methods", nargs="+", default=["tempme", "discovla"])
    parser.add_argument("--rounds", type=int, default=7, help="counted turns of each method")
    parser.add_argument("--videos", type=int, default=4, help="videos per turn")
    args = interleaved.arguments(parser, prepare)
    names = ["lora", *(name for name in args.methods if name != "lora")]
    for model in args.models:
        times = interleaved.measure(__file__, names, args.rounds, {"model": model, "videos": args.videos})
        backbone = meta_backbone(model)
        macs = {name: count(name, {"lr": 1e-4}, backbone, frames=FRAMES, words=WORDS).video_macs_run for name in names}
        print(f"\nencode, {model}, {args.videos} videos x {FRAMES} frames")
        print(f"{'':16}{'s':>8}{'of lora':>9}{'GMACs':>8}{'of lora':>9}")
        for name, taken in times.items():
            line = f"{name:16}{taken.seconds:>8.3f}{taken.seconds / times['lora'].seconds:>9.2f}"
            print(f"{line}{macs[name] / 1e9:>8.1f}{macs[name] / macs['lora']:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
