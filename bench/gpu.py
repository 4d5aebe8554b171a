"""What a GPU does with this project: limits of the card, steps, the loader, encoding, an epoch, ranks and search.

    python bench/gpu.py [--parts ceilings step loader encode epoch ranks search] [--json gpu.json] [--smoke]

Weights are random, since only shapes matter. Frames are smooth pictures with noise, as many bytes as real ones. The
limit is open_clip itself with frozen towers and one trainable vector after the first block of each tower: forward
pass, and backward pass through activations alone. MFU counts the FLOPs of a step over the measured bfloat16 ceiling of
the card. The operators of a step are what the host has to launch.

``--smoke`` runs every part in seconds on the mini backbone, also on a CPU, to show that the script works.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import synthetic
import torch
from measure import Bench, Operators, Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from components.evaluation.encode import encode_videos
from components.evaluation.ranks import both_directions
from components.frames.reader import FrameReader, View
from components.frames.staging import Staging
from components.frames.store import FrameStore
from components.methods.base import Method
from components.params import load_params
from components.precision import Precision, autocast, numerics
from components.search.scores import Vectors
from components.training.augmentation import crop_flip
from components.training.batch import Batch
from components.training.loop import fit
from components.training.loss import info_nce
from components.training.optimiser import build_optimiser
from components.training.step import StepGradients
from models import FRAMES, ROOT, Limit, method_on, random_batch, side_of

PARTS = ("ceilings", "step", "loader", "encode", "epoch", "ranks", "search")


def method_of(model: str, name: str) -> Method:
    """A method with the papers' sizes and arithmetic."""
    return method_on(model, name, **({"form": "paper"} if name == "mv_adapter" else {}))


def open_clip_step(bench: Bench, model: str, videos: int, full: bool) -> Callable[[], object]:
    """A step of the limit, or of plain fine-tuning with AdamW, in bfloat16."""
    network = Limit(model).to(bench.device)
    if full:
        network.requires_grad_(True)
    batch = random_batch(model, videos).to(bench.device)
    scale = torch.tensor(100.0, device=bench.device)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-6, fused=bench.device.type == "cuda") if full else None

    def turn() -> None:
        with autocast("bfloat16", bench.device):
            video, text = network(batch.frames.float() / 127.5 - 1, batch.tokens)
        info_nce(video.float(), text.float(), scale).backward()
        if optimiser is not None:
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
        network.zero_grad(set_to_none=True)

    return turn


def method_step(bench: Bench, model: str, name: str, videos: int, **changes: Any) -> Callable[[], object]:
    """A whole step of the training: gradients, clipping, optimiser."""
    method = method_of(model, name).to(bench.device)
    settings = load_params(ROOT / "params.yaml").training
    settings = dataclasses.replace(settings, micro_batches=1, **{"precision": "bfloat16", **changes})
    optimiser = build_optimiser(method.trainable(), method.learning_rates(), settings.weight_decay, settings.decay)
    gradients = StepGradients(method, settings, seed=0)
    method.train()
    batch = random_batch(model, videos).to(bench.device)

    def turn() -> None:
        gradients.backward(batch, step=0)
        torch.nn.utils.clip_grad_norm_(list(method.trainable().values()), settings.max_grad_norm)
        optimiser.step()

    return turn


def ceilings(bench: Bench) -> None:
    """Matrix products, copies, and transfers to the card."""
    size = 256 if bench.smoke else 8192
    kinds: tuple[tuple[Precision, torch.dtype], ...]
    kinds = (("bfloat16", torch.bfloat16), ("tf32", torch.float32), ("float32", torch.float32))
    for name, dtype in kinds:
        if name == "tf32" and bench.device.type != "cuda":
            continue
        left = torch.randn(size, size, dtype=dtype, device=bench.device)
        with numerics(name):
            seconds = bench.seconds(partial(torch.matmul, left, left))
        bench.add("ceilings", **{f"{name}_tflops": 2 * size**3 / seconds / 1e12})
    block = torch.empty(2**20 if bench.smoke else 2**32, dtype=torch.uint8, device=bench.device)
    other = torch.empty_like(block)
    bench.add("ceilings", copy_tb_s=2 * block.numel() / bench.seconds(lambda: other.copy_(block)) / 1e12)
    if bench.device.type == "cuda":
        host = torch.empty(231_211_008, dtype=torch.uint8)
        pinned = host.pin_memory()
        for kind, memory in (("pageable", host), ("pinned", pinned)):
            seconds = bench.seconds(partial(memory.to, bench.device, non_blocking=True))
            bench.add("ceilings", **{f"h2d_{kind}_gb_s": host.numel() / seconds / 1e9})


def step(bench: Bench) -> None:
    """A training step against the limit: milliseconds, GiB, operators and MFU."""
    ceiling = float(bench.found.get("ceilings", {}).get("bfloat16_tflops", 0.0))
    for model in bench.models:
        for videos in (4,) if bench.smoke else (32, 128):
            turns: dict[str, Callable[[], Callable[[], object]]] = {
                "limit": partial(open_clip_step, bench, model, videos, False),
                "mv_adapter": partial(method_step, bench, model, "mv_adapter", videos),
                "vop": partial(method_step, bench, model, "vop", videos),
                "full": partial(method_step, bench, model, "full", videos),
                "open_clip_full": partial(open_clip_step, bench, model, videos, True),
            }
            limit = 0.0
            for name, make in turns.items():
                bench.peak_gib()
                turn = make()
                seconds = bench.seconds(turn, warm=3)
                limit = limit or seconds
                row: Table = {"ms": 1e3 * seconds, "of_limit": seconds / limit, "gib": bench.peak_gib()}
                with FlopCounterMode(display=False) as flops:
                    turn()
                with Operators() as operators:
                    turn()
                row["operators"] = float(operators.count)
                if ceiling:
                    row["mfu"] = flops.get_total_flops() / seconds / 1e12 / ceiling
                del turn
                bench.add(f"step {model} {videos} {name}", **row)
                if bench.device.type == "cuda":
                    torch.cuda.empty_cache()


def precisions(bench: Bench) -> None:
    """The step of MV-Adapter in each precision."""
    for model in bench.models:
        names: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")
        for name in names:
            if name == "tf32" and bench.device.type != "cuda":
                continue
            turn = method_step(bench, model, "mv_adapter", 4 if bench.smoke else 32, precision=name)
            with numerics(name):
                bench.add(f"precision {model}", **{f"{name}_ms": 1e3 * bench.seconds(turn)})


def store_of(bench: Bench, folder: Path, model: str, videos: int) -> FrameStore:
    """A frame store of smooth pictures; few different ones, since drawing them takes longer than decoding."""
    few = synthetic.few(synthetic.smooth(FRAMES, side_of(model)), 8 if bench.smoke else 64)
    synthetic.write_store(folder, videos, few, quality=90, train=0.9, group=1)
    return FrameStore(folder)


def loader(bench: Bench, store: FrameStore, model: str) -> None:
    """Frames per second of each stage: reading, bare decoding, and batches, plain and with random crops.

    Bare decoding is simplejpeg by itself in as many threads, its pictures thrown away.
    """
    resize = method_of(model, "zero_shot").backbone.resize
    ids = store.ids("train")
    size = min(len(ids), 8 if bench.smoke else 128)
    picks = [list(np.random.default_rng(seed).choice(ids, size, replace=False)) for seed in range(4)]
    frames = size * FRAMES
    seconds = bench.seconds(lambda: list(store.read(picks[0])))
    bench.add("loader", read_random=frames / seconds)
    jpegs = [jpeg for video in store.read(picks[0]) for jpeg in video.frames]
    views: dict[str, View | None] = {"batch": None, "crops": partial(cropped, side_of(model))}
    for threads in (1, 2) if bench.smoke else (1, 2, 4, 8, 16):
        with ThreadPoolExecutor(threads) as pool:
            bare = frames / bench.seconds(partial(decode_all, pool, jpegs))
        row: Table = {"threads": float(threads), "bare": bare}
        for name, view in views.items():
            staging = Staging(4, pinned=bench.device.type == "cuda")
            reader = FrameReader(store, resize, FRAMES, cache_mib=0, threads=threads)
            turn = partial(next_batch, reader, cycle(picks), view, staging)
            row[name] = frames / bench.seconds(turn)
        bench.add(f"loader {threads}", **row, of_bare=float(row["batch"]) / bare)


def decode_one(jpeg: bytes) -> None:
    """Bare decoding."""
    simplejpeg.decode_jpeg(jpeg, colorspace="RGB")


def decode_all(pool: ThreadPoolExecutor, jpegs: list[bytes]) -> None:
    """Bare decoding of a batch."""
    for _ in pool.map(decode_one, jpegs):
        pass


def cropped(side: int, name: str, clip: Tensor) -> Tensor:
    """A random crop, another one for each video."""
    return crop_flip(clip, np.random.default_rng(list(name.encode())), side, "bicubic")


def next_batch(reader: FrameReader, picks: Iterator[list[str]], view: View | None, staging: Staging) -> None:
    """A batch as the loader makes it."""
    reader.batch(next(picks), view, staging)


def encode(bench: Bench, store: FrameStore, model: str) -> None:
    """Frames per second of evaluation, from the device's memory and from the store."""
    ids = store.ids("all")[: 16 if bench.smoke else 512]
    for name in ("zero_shot", "mv_adapter", "vop"):
        method = method_of(model, name).to(bench.device).eval()
        batch = random_batch(model, 4 if bench.smoke else 64).to(bench.device)

        @torch.no_grad()
        def turn(method: Method = method, batch: Batch = batch) -> None:
            with numerics("bfloat16"), autocast("bfloat16", bench.device):
                method.encode_video(method.backbone.normalize(batch.frames), batch.mask)

        row: Table = {"device": batch.frames.shape[0] * FRAMES / bench.seconds(turn)}
        reader = FrameReader(store, method.backbone.resize, FRAMES, cache_mib=0, threads=1 if bench.smoke else 8)
        started = time.perf_counter()
        encode_videos(method, reader, ids, 64, "bfloat16")
        row["store"] = len(ids) * FRAMES / (time.perf_counter() - started)
        bench.add(f"encode {model} {name}", **row)


def epoch(bench: Bench, store: FrameStore, model: str) -> None:
    """Two epochs of the project's loop: videos per second and the ratio of waiting, and MSR-VTT-9k extrapolated."""
    params = load_params(ROOT / "params.yaml")
    for name, videos in (("mv_adapter", 128), ("vop", 32)):
        method = method_of(model, name).to(bench.device)
        training = dataclasses.replace(
            params.training,
            epochs=2,
            batch_size=4 if bench.smoke else videos,
            micro_batches=1,
            batching="random",
            precision="bfloat16",
            validation_every=2,
        )
        execution = dataclasses.replace(params.execution, cache_mib=0, decode_threads=2 if bench.smoke else 8)
        result = fit(method, store, training, execution, seed=0)
        rate = result.samples_per_second
        row: Table = {"videos_per_s": rate, "waiting": result.data_wait_share}
        row["msrvtt_9k_5_epochs_min"] = 5 * 9000 / rate / 60
        bench.add(f"epoch {model} {name}", **row)
        del method
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


def ranks(bench: Bench) -> None:
    """Ranking N texts against N videos, both ways."""
    count = 200 if bench.smoke else 100_000
    generator = torch.Generator().manual_seed(0)
    texts = F.normalize(torch.randn(count, 512, generator=generator), dim=-1).to(bench.device)
    videos = F.normalize(texts + torch.randn(count, 512, generator=generator).to(bench.device) / 16, dim=-1)
    owner, present = torch.arange(count), torch.ones(count, dtype=torch.bool)
    started = time.perf_counter()
    both_directions(texts, videos, owner, present, device=bench.device)
    bench.drain()
    bench.add("ranks", rows=float(count), seconds=time.perf_counter() - started)


def search(bench: Bench) -> None:
    """A query over a million vectors, beyond the encoding of its text."""
    count = 1_000 if bench.smoke else 1_000_000
    vectors = np.random.default_rng(0).standard_normal((count, 512), dtype=np.float32)
    table = Vectors(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), bench.device)
    query = torch.from_numpy(vectors[:1].copy()).to(bench.device)
    bench.add("search", rows=float(count), ms_beyond_text=1e3 * bench.seconds(lambda: table.best(query, 10)))


def main() -> None:
    """Runs the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--json", type=Path, help="writes the results to this file too")
    parser.add_argument("--smoke", action="store_true", help="the smallest sizes, on any machine")
    parser.add_argument("--videos", type=int, default=2000, help="videos of the frame store (default: 2000)")
    args = parser.parse_args()
    bench = Bench(args.smoke)
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "CPU"
    bench.add("machine", device=name, torch=torch.__version__)
    if "ceilings" in args.parts:
        ceilings(bench)
    if "step" in args.parts:
        step(bench)
        precisions(bench)
    if {"loader", "encode", "epoch"} & set(args.parts):
        with tempfile.TemporaryDirectory() as folder:
            store = store_of(bench, Path(folder), bench.models[0], 24 if args.smoke else args.videos)
            if "loader" in args.parts:
                loader(bench, store, bench.models[0])
            for model in bench.models:
                if "encode" in args.parts:
                    encode(bench, store, model)
                if "epoch" in args.parts:
                    epoch(bench, store, model)
    if "ranks" in args.parts:
        ranks(bench)
    if "search" in args.parts:
        search(bench)
    if args.json:
        args.json.write_text(json.dumps(bench.found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
