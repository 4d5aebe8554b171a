"""What several processes do together: gather with exact gradients, average gradients, share out encoding.

The global batch of ``B`` pairs is dealt out as ``rank::world``. Each process encodes its own pairs, gathers the
embeddings of all and computes the whole loss, so that ``N`` processes minimise what one would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Gradients are averaged in pieces of this many bytes, which bounds the extra memory of full fine-tuning.
BUCKET_BYTES = 64 * 2**20


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(rows: Tensor, total: int) -> Tensor:
    """The rows of all processes in the order of the global batch, with gradients.

    Args:
        rows: float[b, D], this process's share ``rank::world`` of ``total`` rows.
        total: number of rows over all processes, ``B``.

    Returns:
        float[B, D]. If every process computes a loss from it, and parameter gradients are averaged over the
        processes, they are the gradients of the mean of those losses.
    """
    if rank_and_world()[1] == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows, total)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, total: int) -> Tensor:
        rank, world = rank_and_world()
        ctx.rank, ctx.world = rank, world
        share = -(-total // world)
        padded = rows.new_zeros(share, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded)
        # Row i * world + r is row i of process r; the padding of short shares falls off the end.
        return torch.stack(parts, dim=1).flatten(0, 1)[:total]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # Clone: autograd may hand the same tensor to other consumers, and all_reduce writes into it.
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad[ctx.rank :: ctx.world], None


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Replaces each gradient by its mean over the processes; a missing one counts as zero.

    One all-reduce per bucket, in the order given: unlike DistributedDataParallel's buckets, which follow the first
    step's timing, this adds up in the same order in every run and after every restart.
    """
    world = rank_and_world()[1]
    if world == 1:
        return
    bucket: list[torch.nn.Parameter] = []
    filled = 0
    for parameter in parameters:
        bucket.append(parameter)
        filled += parameter.numel() * parameter.element_size()
        if filled >= BUCKET_BYTES:
            _average_bucket(bucket, world)
            bucket, filled = [], 0
    if bucket:
        _average_bucket(bucket, world)


def _average_bucket(bucket: list[torch.nn.Parameter], world: int) -> None:
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= world
    for parameter, piece in zip(bucket, flat.split([g.numel() for g in grads]), strict=True):
        parameter.grad = piece.view_as(parameter)


def share_out(rows: int, chunk: int, encode: Callable[[slice], Tensor]) -> Tensor:
    """Encodes ``rows`` rows in chunks that are dealt out over the processes; every process gets all of them.

    The chunks do not depend on the number of processes, so neither does what a row is encoded together with.

    Args:
        rows: ``N``, at least 1.
        chunk: rows per call.
        encode: slice of rows -> float[len(slice), D]; without gradients.

    Returns:
        float32[N, D] on the CPU.
    """
    rank, world = rank_and_world()
    pieces = [slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]
    # A process without a chunk of its own still has to know the width and the device.
    done = [encode(piece).float() for piece in pieces[rank::world] or pieces[:1]]
    block = done[0].new_zeros(len(pieces[rank::world]), chunk, done[0].shape[1])
    for index, piece in enumerate(pieces[rank::world]):
        block[index, : piece.stop - piece.start] = done[index]
    return gather(block, len(pieces)).flatten(0, 1)[:rows].cpu()
