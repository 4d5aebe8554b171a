"""IA3 (Liu et al., NeurIPS 2022, section 3.3): vectors that scale keys, values and the MLP's activations.

``softmax(q (l_k * k)^T) (l_v * v)`` in attention and ``(l_ff * act(x W_1)) W_2`` in the MLP. All vectors start at one.
"""

from __future__ import annotations

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.backbones.hooks import Flow, Hooks, Part
from components.config import STRICT
from components.methods.base import Method, TrainedSettings


@dataclass(frozen=True, config=STRICT)
class IA3Settings(TrainedSettings):
    """Only the learning rate must be set."""


class IA3(Method[IA3Settings]):
    """Three vectors in every layer of both towers."""

    def setup(self) -> None:
        spec = self.spec
        self.video = nn.ModuleList([Scales(spec.vision_width) for _ in range(spec.vision_layers)])
        self.text = nn.ModuleList([Scales(spec.text_width) for _ in range(spec.text_layers)])

    def vision_hooks(self) -> Hooks:
        return _Scaled(self.video)

    def text_hooks(self) -> Hooks:
        return _Scaled(self.text)


class Scales(nn.Module):
    """l_k, l_v: ``float[D]`` and l_ff: ``float[4 D]`` of one layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.k, self.v = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.ff = nn.Parameter(torch.ones(4 * width))


class _Scaled(Hooks):
    token_wise = True

    def __init__(self, layers: nn.ModuleList) -> None:
        self.layers = [layer for layer in layers if isinstance(layer, Scales)]

    def project(self, i: int, part: Part, x: Tensor, y: Tensor, flow: Flow) -> Tensor:
        if part != "qkv":
            return y
        scales = self.layers[i]
        return y * torch.cat([torch.ones_like(scales.k), scales.k, scales.v])

    def after_activation(self, i: int, u: Tensor, flow: Flow) -> Tensor:
        return u * self.layers[i].ff
