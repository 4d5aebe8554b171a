"""Whether torch.compile or CUDA graphs pay: the passes of a micro-batch, launched one operator at a time and whole.

    python bench/graphs.py [--methods mv_adapter vop] [--videos 32] [--backend inductor] [--smoke]

A pass encodes a micro-batch in bfloat16 and sends a gradient back to what trains. Below about 64 videos at ViT-B/32 the
host launches operators more slowly than an H200 computes them. `compiled` is torch.compile, whose first pass is timed
apart. `graph` is a CUDA graph of both passes, captured once and replayed, and is left out where there is no GPU. The
error is the largest difference of a gradient from the plain pass, relative to the largest gradient. A form that fails
says why and the others go on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import cast

import torch
from gpu import method_of
from measure import Bench, Table
from torch import Tensor, nn

from components.precision import autocast
from components.training.batch import Batch
from models import random_batch

Encode = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Encoder(nn.Module):
    """A method with its precision, from frames and texts to embeddings: a module, as CUDA graphs need one."""

    def __init__(self, model: str, method: str, device: torch.device) -> None:
        super().__init__()
        self.method = method_of(model, method).to(device).train()
        self.device = device

    def forward(self, frames: Tensor, mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``float32[B, E]`` of frames ``float[B, T, 3, S, S]`` and texts ``int64[B, L]``."""
        with autocast("bfloat16", self.device):
            video, text = self.method(frames, mask, tokens)
        return video.float(), text.float()


def passes(encoder: Encoder, encode: Encode, batch: Batch) -> list[Tensor]:
    """The gradients of a forward and a backward pass."""
    encoder.zero_grad(set_to_none=True)
    frames = encoder.method.backbone.normalize(batch.frames)
    video, text = encode(frames, batch.mask, batch.tokens)
    ends = [end for end in (video, text) if end.requires_grad]
    torch.autograd.backward(ends, [torch.ones_like(end) for end in ends])
    return [p.grad.clone() for p in encoder.method.trainable().values() if p.grad is not None]


def graphed(encoder: Encoder, batch: Batch) -> Encode:
    """Both passes as CUDA graphs, captured for the shapes of ``batch``."""
    frames = encoder.method.backbone.normalize(batch.frames)
    return cast(Encode, torch.cuda.make_graphed_callables(encoder, (frames, batch.mask, batch.tokens)))


def compare(bench: Bench, model: str, name: str, videos: int, backend: str) -> None:
    """Prints the time of each form, its first pass, and how far its gradients are from the plain ones."""
    batch = random_batch(model, videos).to(bench.device)
    encoder = Encoder(model, name, bench.device)
    expected = passes(encoder, encoder, batch)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    forms: dict[str, Callable[[], Encode]] = {
        "plain": lambda: encoder,
        "compiled": lambda: cast(Encode, torch.compile(encoder, backend=backend)),
    }
    if bench.device.type == "cuda":
        forms["graph"] = lambda: graphed(encoder, batch)
    plain = 0.0
    for form, make in forms.items():
        started = time.perf_counter()
        try:
            encode = make()
            found = passes(encoder, encode, batch)
        except Exception as error:  # a compiler raises many kinds, and its refusal is a result
            bench.add(f"graphs {model} {name} {form}", failed=f"{type(error).__name__}: {error}"[:200])
            continue
        bench.drain()
        row: Table = {"first_s": time.perf_counter() - started}
        differences = (float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
        row["error"] = max(differences) / largest
        seconds = bench.seconds(lambda encode=encode: passes(encoder, encode, batch), warm=3)  # type: ignore[misc]
        plain = plain or seconds
        row |= {"ms": 1e3 * seconds, "of_plain": seconds / plain}
        bench.add(f"graphs {model} {name} {form}", **row)


def main() -> None:
    """Compares the forms for each model and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["mv_adapter", "vop"])
    parser.add_argument("--videos", type=int, default=32, help="videos of a micro-batch")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--smoke", action="store_true", help="the smallest sizes, on any machine")
    args = parser.parse_args()
    bench = Bench(args.smoke)
    for model in bench.models:
        for name in args.methods:
            compare(bench, model, name, 2 if args.smoke else args.videos, args.backend)


if __name__ == "__main__":
    main()
