"""IA3: vectors that scale keys, values and the MLP's activations (Liu et al., NeurIPS 2022, section 3.3).

``softmax(q (l_k * k)^T) (l_v * v)`` in attention and ``(l_ff * act(x W_1)) W_2`` in the MLP, in every layer of both
towers. All vectors start at one, so the untrained method is CLIP itself. That is 92,160 scalars on ViT-B/32 and
ViT-B/16. peft 0.21.2 gives the same embeddings and gradients (targets ``k_proj``, ``v_proj`` and the feed-forward
``fc2``), as a test shows.

``training.decay: matrices`` leaves the vectors alone. The other rules pull them towards zero, not towards one.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.backbones.hooks import Flow, Hooks, Part
from components.config import STRICT
from components.methods.base import Method, TrainedSettings
from components.methods.parts import chosen_layers


@dataclass(frozen=True, config=STRICT)
class IA3Settings(TrainedSettings):
    """Places of the vectors.

    Attributes:
        vision_layers: Layers of the vision tower with vectors, from 0. None means all.
        text_layers: Layers of the text tower with vectors, from 0. None means all.
    """

    vision_layers: tuple[int, ...] | None = None
    text_layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.vision_layers == () == self.text_layers:
            raise ValueError("vision_layers and text_layers are both empty: nothing would train (use zero_shot)")


class IA3(Method[IA3Settings]):
    """Three vectors in each layer."""

    def setup(self) -> None:
        settings, where = self.settings, f"methods.{self.name}"
        self.video = _scales(self.backbone.vision, f"{where}.vision_layers", settings.vision_layers)
        self.text = _scales(self.backbone.text, f"{where}.text_layers", settings.text_layers)

    def vision_hooks(self) -> Hooks:
        return _Scaled(self.video)

    def text_hooks(self) -> Hooks:
        return _Scaled(self.text)


class Scales(nn.Module):
    """l_k, l_v: ``float[D]`` and l_ff: ``float[W]`` of one layer, whose MLP has W hidden units."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.k, self.v = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.ff = nn.Parameter(torch.ones(hidden))


def _scales(tower: Any, where: str, layers: tuple[int, ...] | None) -> nn.ModuleDict:
    blocks = tower.layers.blocks
    return nn.ModuleDict(
        {
            str(i): Scales(blocks[i].attn.out_proj.weight.shape[0], blocks[i].mlp.c_fc.weight.shape[0])
            for i in chosen_layers(where, layers, len(blocks))
        }
    )


class _Scaled(Hooks):
    token_wise = True

    def __init__(self, layers: nn.ModuleDict) -> None:
        self.layers = {int(i): layer for i, layer in layers.items() if isinstance(layer, Scales)}

    def project(self, i: int, part: Part, x: Tensor, y: Tensor, flow: Flow) -> Tensor:
        if part != "qkv" or i not in self.layers:
            return y
        scales = self.layers[i]
        return (y * torch.cat([torch.ones_like(scales.k), scales.k, scales.v])).to(y.dtype)

    def after_activation(self, i: int, u: Tensor, flow: Flow) -> Tensor:
        return (u * self.layers[i].ff).to(u.dtype) if i in self.layers else u
