"""Time and peak memory of ranking N texts against N videos in both directions, up to 100,000 x 100,000.

    python bench/ranks.py [--sizes 1000 10000 20000 100000] [--width 16] [--plain-up-to 20000] [--device cpu]

Each size runs in a separate process, so that each has its own peak. Up to ``--plain-up-to``, the same ranks are also
computed from the whole matrix at once, which released evaluation code does. Both must agree rank by rank. The last two
columns are the ratios of time and memory, chunked to whole matrix. The peaks include the interpreter and torch, which
the first row (N = 1) shows without the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from torch import Tensor

from components.evaluation.ranks import text_to_video, video_to_text


def vectors(size: int, width: int) -> tuple[Tensor, Tensor]:
    """Texts and videos, float32[N, D], L2-normalised. A text is its video with noise, so that ranks vary."""
    generator = torch.Generator().manual_seed(size)
    videos = torch.nn.functional.normalize(torch.randn(size, width, generator=generator), dim=1)
    noise = torch.randn(size, width, generator=generator) / width**0.5
    return torch.nn.functional.normalize(videos + noise, dim=1), videos


def chunked(texts: Tensor, videos: Tensor) -> list[np.ndarray]:
    """The project's way: some queries at a time."""
    owner = torch.arange(len(texts), device=texts.device)
    both = text_to_video(texts, videos, owner), video_to_text(texts, videos, owner)
    return [ranks.expected for ranks in both]


def plain(texts: Tensor, videos: Tensor) -> list[np.ndarray]:
    """The same ranks from the whole matrix at once."""
    similarity = (texts.double() @ videos.double().T).float()
    found = []
    for scores in (similarity, similarity.T):
        own = scores.diagonal()[:, None]
        better, equal = (scores > own).sum(1), (scores == own).sum(1) - 1
        found.append((1 + better + equal / 2).cpu().double().numpy())
    return found


def measure(way: str, size: int, width: int, device: str) -> dict[str, object]:
    """Measures seconds, peak resident MiB and a digest of the ranks in this process."""
    texts, videos = (tensor.to(device) for tensor in vectors(size, width))
    started = time.perf_counter()
    ranks = {"chunked": chunked, "plain": plain}[way](texts, videos)
    seconds = time.perf_counter() - started
    digest = hashlib.sha256(b"".join(part.tobytes() for part in ranks)).hexdigest()
    # Linux counts kilobytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": peak, "digest": digest}


def in_new_process(way: str, size: int, args: argparse.Namespace) -> dict[str, float | str]:
    """:func:`measure` in a fresh interpreter."""
    command = [sys.executable, __file__, "--one", way, "--sizes", str(size), "--width", str(args.width)]
    done = subprocess.run([*command, "--device", args.device], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float | str] = json.loads(done.stdout)
    return found


def main() -> None:
    """Prints a table of all sizes, or one measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 1_000, 10_000, 20_000, 100_000])
    parser.add_argument("--width", type=int, default=16, help="D")
    parser.add_argument("--plain-up-to", type=int, default=20_000, help="largest N to rank from the whole matrix")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", choices=["chunked", "plain"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.sizes[0], args.width, args.device)))
        return
    print(f"{'N':>8}{'seconds':>10}{'peak MiB':>10}{'plain s':>10}{'plain MiB':>11}{'time':>8}{'memory':>8}")
    for size in args.sizes:
        mine = in_new_process("chunked", size, args)
        line = f"{size:>8}{mine['seconds']:>10.2f}{mine['peak_mib']:>10.0f}"
        if size <= args.plain_up_to:
            whole = in_new_process("plain", size, args)
            if whole["digest"] != mine["digest"]:
                sys.exit(f"N = {size}: the chunked ranks differ from those of the whole matrix")
            time_ratio = float(mine["seconds"]) / float(whole["seconds"])
            memory_ratio = float(mine["peak_mib"]) / float(whole["peak_mib"])
            line += f"{whole['seconds']:>10.2f}{whole['peak_mib']:>11.0f}{time_ratio:>8.2f}{memory_ratio:>8.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
