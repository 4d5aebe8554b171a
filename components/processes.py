"""Devices, and what several processes do together: gather rows, and divide the encoding of rows among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from components.errors import ConfigError

T = TypeVar("T")


def pick_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that ``evaluation.device`` names. ``auto`` means the GPU if there is one.

    Raises:
        ConfigError: The name is ``cuda``, and there is no GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda":
        check_gpu("params.yaml evaluation.device")
    return torch.device(name)


def check_gpu(where: str) -> None:
    """Checks that PyTorch can use a GPU.

    Args:
        where: What asks for it, for the message.

    Raises:
        ConfigError: It cannot. The message says why: no card, no driver, or a driver that does not fit PyTorch.
    """
    if torch.cuda.is_available():
        return
    try:
        torch.cuda.init()
        reason = "no CUDA device"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition(". ")[0].partition("\n")[0]
    raise ConfigError(
        "PyTorch cannot use a GPU",
        where=where,
        found=reason,
        expected=f"a CUDA device for PyTorch {torch.__version__}",
        cure="use a CPU, or install a driver and a PyTorch that fit each other",
    )


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the world size; (0, 1) outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Gathers the rows of all processes, in the order of the ranks, without gradients.

    Args:
        rows: This process's rows, [counts[rank], ...].
        counts: The number of rows of each process.

    Returns:
        All rows, [sum(counts), ...].
    """
    rank, world = rank_and_world()
    if len(counts) != world or len(rows) != counts[rank]:
        raise ValueError(f"rank {rank} of {world} has {len(rows)} rows, counts are {list(counts)}")
    if world == 1:
        return rows
    # A collective needs the same shape in every process.
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def share_out(rows: int, chunk: int, encode: Callable[[T], Tensor], fetch: Callable[[slice], T]) -> Tensor:
    """Encodes rows in chunks that are divided among the processes. Every process gets all encoded rows.

    The chunks do not depend on the number of processes, so a row is always encoded together with the same rows.

    Args:
        rows: ``N``, at least 1.
        chunk: Rows per call of ``encode``.
        encode: Maps what ``fetch`` returned to float[len(slice), D], without gradients.
        fetch: Maps a slice of rows to the input of ``encode``. It runs one chunk ahead, in a thread.

    Returns:
        ``float32[N, D]`` on the CPU.
    """
    rank, world = rank_and_world()
    pieces = [slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]
    parts = [range(r, len(pieces), world) for r in range(world)]
    # A process without a chunk still has to know the width and the device.
    done = [encode(found).float() for found in ahead(fetch, [pieces[index] for index in parts[rank] or [0]])]
    block = done[0].new_zeros(len(parts[rank]), chunk, done[0].shape[1])
    for row, index in enumerate(parts[rank]):
        block[row, : pieces[index].stop - pieces[index].start] = done[row]
    gathered = gather(block, [len(part) for part in parts])
    place = torch.tensor([index for part in parts for index in part], device=gathered.device)
    return torch.empty_like(gathered).index_copy_(0, place, gathered).flatten(0, 1)[:rows].cpu()


def ahead(fetch: Callable[[slice], T], pieces: Sequence[slice]) -> Iterator[T]:
    """``fetch`` of every piece in order, the next one made in a thread while this one is used."""
    threads = torch.get_num_threads()
    # A new thread does not inherit the number that was set for this one.
    with ThreadPoolExecutor(1, "ahead", torch.set_num_threads, (threads,)) as pool:
        following = pool.submit(fetch, pieces[0])
        for piece in pieces[1:]:
            found = following.result()
            following = pool.submit(fetch, piece)
            yield found
        yield following.result()
