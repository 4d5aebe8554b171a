"""Sums of gradients that come out the same, bit by bit, however many processes add them.

Floating-point addition is not associative, and Adam makes full steps of the rounding noise of a gradient that is nearly
zero. So the order is fixed: the gradients of the micro_batches 0, 1, 2, ... of a batch are the leaves of one binary tree. A
process adds the subtree of its own micro_batches, then each process completes the tree from the sums of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.processes import rank_and_world

# Gradients are exchanged in pieces of this many bytes, which bounds the extra memory of full fine-tuning.
BUCKET_BYTES = 64 * 2**20

# A gradient per parameter; None for zero.
Gradients = list[Tensor | None]


class TreeSum:
    """Adds up what it is given pairwise, ``((0 + 1) + (2 + 3)) + ...``, as a binary counter: at most ``log2 n`` terms
    are held. The tensors given are written to."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, Gradients]] = []

    def add(self, term: Gradients) -> None:
        """Takes the next leaf."""
        size = 1
        while self._parts and self._parts[-1][0] == size:
            term = _plus(self._parts.pop()[1], term)
            size *= 2
        self._parts.append((size, term))

    def total(self) -> Gradients:
        """The sum of at least one leaf; subtrees of different size are joined from the last to the first."""
        total = self._parts.pop()[1]
        while self._parts:
            total = _plus(self._parts.pop()[1], total)
        return total


def _plus(left: Gradients, right: Gradients) -> Gradients:
    return [a if b is None else b if a is None else a.add_(b) for a, b in zip(left, right, strict=True)]


def take_gradients(parameters: Sequence[nn.Parameter]) -> Gradients:
    """The gradients that a backward pass left, which are taken off the parameters."""
    taken: Gradients = []
    for parameter in parameters:
        taken.append(parameter.grad)
        parameter.grad = None
    return taken


def sum_over_processes(parameters: Sequence[nn.Parameter], own: Gradients) -> list[Tensor]:
    """Completes the tree over the processes.

    Args:
        parameters: whose gradients they are.
        own: this process's sum, a subtree; its tensors are written to.

    Returns:
        Sums over all processes, the same in each; zeros where none has a gradient.
    """
    full = [torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, own, strict=True)]
    world = rank_and_world()[1]
    if world == 1:
        return full
    for bucket in _buckets(full):
        flat = torch.cat([grad.flatten() for grad in bucket])
        parts = [torch.empty_like(flat) for _ in range(world)]
        dist.all_gather(parts, flat)
        tree = TreeSum()
        for part in parts:
            tree.add([part])
        (total,) = tree.total()
        assert total is not None
        for grad, piece in zip(bucket, total.split([g.numel() for g in bucket]), strict=True):
            grad.copy_(piece.view_as(grad))
    return full


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        bucket.append(tensor)
        filled += tensor.nbytes
        if filled >= BUCKET_BYTES:
            yield bucket
            bucket, filled = [], 0
    if bucket:
        yield bucket
