"""A method outside the project that acts inside the towers: a trained vector that each MLP adds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.backbones.hooks import Flow, Hooks
from components.methods.base import Method, TrainedSettings


class Shift(Method[TrainedSettings]):
    """One vector in every layer of both towers."""

    def setup(self) -> None:
        spec = self.spec
        self.video = nn.Parameter(torch.zeros(spec.vision_layers, spec.vision_width))
        self.text = nn.Parameter(torch.zeros(spec.text_layers, spec.text_width))

    def vision_hooks(self) -> Hooks:
        return _Shifted(self.video)

    def text_hooks(self) -> Hooks:
        return _Shifted(self.text)


class _Shifted(Hooks):
    def __init__(self, shifts: Tensor) -> None:
        self.shifts = shifts

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        return m + self.shifts[i]
