"""Sums of gradients that are the same, bit for bit, however many processes add them.

Floating-point addition is not associative, and Adam turns the rounding noise of a gradient near zero into full steps.
So the order is fixed: the gradients of the micro-batches 0, 1, 2, ... of a batch are the leaves of one binary tree. A
process adds the subtree of its micro-batches. Then every process completes the tree from the sums of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.processes import rank_and_world

# Gradients are exchanged in pieces of this many bytes, which bounds the extra memory of full fine-tuning.
BUCKET_BYTES = 64 * 2**20

# One gradient per parameter. None means zero.
Gradients = list[Tensor | None]


class TreeSum:
    """Adds terms pairwise, ``((0 + 1) + (2 + 3)) + ...``, like a binary counter.

    It holds at most ``log2 n + 1`` terms. It writes to the tensors it is given.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[int, Gradients]] = []

    def add(self, term: Gradients) -> None:
        """Adds the next leaf."""
        size = 1
        while self._parts and self._parts[-1][0] == size:
            term = _add(self._parts.pop()[1], term)
            size *= 2
        self._parts.append((size, term))

    def total(self) -> Gradients:
        """The sum of all leaves, at least one. Subtrees of different size are joined from the last to the first."""
        total = self._parts.pop()[1]
        while self._parts:
            total = _add(self._parts.pop()[1], total)
        return total


def _add(left: Gradients, right: Gradients) -> Gradients:
    return [a if b is None else b if a is None else a.add_(b) for a, b in zip(left, right, strict=True)]


def take_gradients(parameters: Sequence[nn.Parameter]) -> Gradients:
    """Takes the gradients of a backward pass off the parameters and returns them."""
    taken: Gradients = []
    for parameter in parameters:
        taken.append(parameter.grad)
        parameter.grad = None
    return taken


def sum_over_processes(parameters: Sequence[nn.Parameter], local: Gradients) -> list[Tensor]:
    """Completes the tree over the processes.

    Args:
        parameters: The parameters that the gradients belong to.
        local: This process's sum, a subtree. Its tensors are written to.

    Returns:
        The sums over all processes, the same in each; zeros where no process has a gradient.
    """
    full = [torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, local, strict=True)]
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
