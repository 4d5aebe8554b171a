"""IA3 (Liu et al., NeurIPS 2022, section 3.3) from outside the project: the hooks reach keys, values and hidden units.

One vector scales each of them. Held to the same CLIP with its weights scaled by hand.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from tiny_backbone import FRAMES, TEXTS, WORDS, clips
from torch import Tensor, nn
from variants import BACKBONE

from components import config
from components.backbones.clip import Backbone
from components.backbones.hooks import Flow, Hooks, Part
from components.methods.base import Method, MethodSettings, TrainedSettings


@dataclass(frozen=True, config=config.STRICT)
class IA3Settings(TrainedSettings):
    """Nothing but the learning rate."""


class Scales(Hooks):
    """``l_k`` and ``l_v`` on keys and values, ``l_ff`` on the hidden units of the MLP."""

    def __init__(self, keys: Tensor, values: Tensor, hidden: Tensor) -> None:
        self.keys, self.values, self.hidden = keys, values, hidden

    def project(self, i: int, part: Part, x: Tensor, y: Tensor, flow: Flow) -> Tensor:
        if part != "qkv":
            return y
        return y * torch.cat([torch.ones_like(self.keys[i]), self.keys[i], self.values[i]])

    def after_activation(self, i: int, u: Tensor, flow: Flow) -> Tensor:
        return u * self.hidden[i]


class IA3(Method):
    """Three vectors per layer and tower, which start at one."""

    name: ClassVar[str] = "ia3"
    Settings: ClassVar[type[MethodSettings]] = IA3Settings

    def __init__(self, backbone: Backbone, settings: Any, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        spec = backbone.spec
        towers = {"vision": (spec.vision_layers, spec.vision_width), "text": (spec.text_layers, spec.text_width)}
        self.scales = nn.ParameterDict(
            {
                f"{tower}_{name}": nn.Parameter(torch.ones(layers, width * times))
                for tower, (layers, width) in towers.items()
                for name, times in (("keys", 1), ("values", 1), ("hidden", 4))
            }
        )

    def hooks(self, tower: str) -> Hooks:
        """The vectors of one tower."""
        return Scales(*(self.scales[f"{tower}_{name}"] for name in ("keys", "values", "hidden")))

    def vision_hooks(self) -> Hooks:
        return self.hooks("vision")

    def text_hooks(self) -> Hooks:
        return self.hooks("text")


@torch.no_grad()
def scaled_by_hand(method: IA3) -> Backbone:
    """The backbone whose weights hold the vectors: rows of keys and values, columns of the MLP's second map."""
    backbone = copy.deepcopy(method.backbone)
    for tower in ("vision", "text"):
        for i, block in enumerate(getattr(backbone, tower).layers.blocks):
            width = block.attn.out_proj.in_features
            for start, name in ((width, "keys"), (2 * width, "values")):
                rows = slice(start, start + width)
                block.attn.in_proj_weight[rows] *= method.scales[f"{tower}_{name}"][i][:, None]
                block.attn.in_proj_bias[rows] *= method.scales[f"{tower}_{name}"][i]
            block.mlp.c_proj.weight *= method.scales[f"{tower}_hidden"][i]
    return backbone


def test_the_vectors_act_as_scaled_weights_do() -> None:
    method = IA3(BACKBONE, IA3Settings(lr=1e-3), frames=FRAMES, words=WORDS).eval()
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for vector in method.scales.values():
            vector.copy_(1 + 0.3 * torch.randn(vector.shape, generator=generator))
    by_hand = IA3(scaled_by_hand(method), IA3Settings(lr=1e-3), frames=FRAMES, words=WORDS).eval()
    untouched = IA3(BACKBONE, IA3Settings(lr=1e-3), frames=FRAMES, words=WORDS).eval()
    with torch.no_grad():
        found, expected, before = method(*inputs), by_hand(*inputs), untouched(*inputs)
    for a, b, c in zip(found, expected, before, strict=True):
        assert torch.allclose(a, b, atol=2e-6)
        assert not torch.allclose(a, c, atol=1e-2)
