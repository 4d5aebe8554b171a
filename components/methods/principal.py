"""The first principal axis: exact, deterministic and differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from components.methods.parts import float32


def first_principal_axis(x: Tensor) -> Tensor:
    """The unit vector along which the centred rows of ``x`` vary most, with the sign that makes its sum positive.

    ``torch.pca_lowrank(x, 1)`` approximates this vector from random starts. Here it is computed in float32 from the
    smaller of the two Gram matrices. A matrix without variance gets the zero vector.

    Args:
        x: ``float[n, rows, columns]``.

    Returns:
        ``float32[n, columns]``.
    """
    with float32(x.device):
        c = x.float()
        c = c - c.mean(dim=1, keepdim=True)
        if c.shape[1] <= c.shape[2]:
            across = _TopEigenvector.apply(c @ c.transpose(1, 2))
            axis = F.normalize(torch.einsum("nrc,nr->nc", c, across), dim=-1)
        else:
            axis = _TopEigenvector.apply(c.transpose(1, 2) @ c)
        total = axis.sum(dim=1, keepdim=True)
        return axis * torch.where(total < 0, -1.0, 1.0)


class _TopEigenvector(torch.autograd.Function):
    """Eigenvector of the largest eigenvalue of symmetric matrices, ``float[n, k, k] -> float[n, k]``.

    The gradient of ``torch.linalg.eigh`` is NaN where any two eigenvalues are equal, as in a Gram matrix of low rank.
    The gradient of the first eigenvector only needs the first eigenvalue to differ from the others.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(values, vectors)
        return vectors[..., -1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        values, vectors = ctx.saved_tensors
        gap = values[..., -1:] - values[..., :-1]
        # Where another eigenvalue equals the first, the axis is arbitrary and gets no gradient.
        inverse = torch.where(gap > 1e-7 * values[..., -1:].abs(), 1 / gap, gap.new_zeros(()))
        inverse = torch.where(torch.isfinite(inverse), inverse, gap.new_zeros(()))
        others = vectors[..., :-1]
        u = others @ (inverse.unsqueeze(-1) * (others.transpose(-1, -2) @ gradients[0].unsqueeze(-1)))
        outer = u @ vectors[..., -1:].transpose(-1, -2)
        return (outer + outer.transpose(-1, -2)) / 2
