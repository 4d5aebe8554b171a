"""Adapter^FFN: bottleneck adapters in parallel with every feed-forward network of both encoders (VoP, section 4.1).

``x + MLP(h) + s * ReLU(h W_down) W_up`` with ``h = LN_2(x)``. The sizes, and the choices that are ours, are those of
Adapter^ATTN (:mod:`components.methods.adapter_attn`).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from components.backbones.hooks import Flow
from components.methods.adapter_attn import AdapterHooks, ParallelAdapters


class _NextToMLP(AdapterHooks):
    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        return self.added(i, h, m, flow)


class AdapterFFN(ParallelAdapters):
    """Adapters in parallel with the MLP."""

    hooks: ClassVar[type[AdapterHooks]] = _NextToMLP
