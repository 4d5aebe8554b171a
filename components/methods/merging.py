"""Merging of tokens: the most similar ones become their mean (ToMe, Bolya et al., ICLR 2023, section 3).

Patches are split into two sets by turns. Each patch of the first set finds its nearest in the second one by cosine, and
the pairs with the highest cosine are merged. A token remembers how many of CLIP's tokens it stands for, and means are
weighted with these sizes. Class tokens are never merged.

The result is a matrix product, so several tokens that merge into one are added in the same order on any device.
Cosines are rounded to a grid, and sorts are stable: of equal cosines the first wins, whatever the rounding of a product
over another batch. Without this, frames that repeat would be merged at random.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from components.methods.parts import float32

# Steps between the cosines 0 and 1. A power of two keeps the cosine 1 on the grid.
GRID = 2**16


def matching(metric: Tensor, classes: int, count: int) -> Tensor:
    """Which tokens become one.

    Args:
        metric: ``float[n, L, K]``, what the tokens are compared by.
        classes: How many of the first tokens stay. If it is even, the first patch belongs to the first set.
        count: How many patches are merged into others, at most half of the patches.

    Returns:
        ``bool[n, L - count, L]``. A row is a token afterwards, true at the tokens that it is made from. The order is
        class tokens, the patches left of the first set, and those of the second set.
    """
    rows, length, _ = metric.shape
    start, device = classes % 2, metric.device
    with torch.no_grad(), float32(device):
        patches = F.normalize(metric[:, classes:].float(), dim=-1)
        cosines = patches[:, start::2] @ patches[:, 1 - start :: 2].transpose(1, 2)
        best, nearest = (cosines * GRID).round().max(dim=-1)
        order = best.argsort(dim=-1, descending=True, stable=True)
        left = order[:, count:].sort(dim=-1).values
        second = classes + left.shape[1]
        # The place of each token afterwards.
        place = torch.arange(length, device=device).expand(rows, -1).clone()
        of_left = torch.arange(classes, second, device=device).expand(rows, -1)
        place[:, classes + start :: 2] = (second + nearest).scatter(1, left, of_left)
        place[:, classes + 1 - start :: 2] = torch.arange(second, length - count, device=device)
        return place[:, None] == torch.arange(length - count, device=device)[:, None]


def merged(x: Tensor, sizes: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and their sizes after merging.

    Args:
        x: ``float[n, L, D]``.
        sizes: ``float[n, L]``, how many of CLIP's tokens each token stands for.
        matches: ``bool[n, M, L]``, from :func:`matching`.

    Returns:
        ``float[n, M, D]`` in the type of ``x`` and ``float[n, M]``.
    """
    with float32(x.device):
        weights = matches * sizes[:, None]
        total = weights.sum(dim=-1)
        return (weights / total[..., None]).to(x.dtype) @ x, total
