"""DoRA: low-rank updates of the direction of frozen weights, and their magnitudes (Liu et al., ICML 2024).

``y = m * (V x) / |V| + b`` with ``V = W + (alpha / r) B A``, and one norm |V| and one magnitude m per output. As in the
paper's section 4.3, no gradient flows through |V|. m starts at the norms of W and B at zero, so the untrained method is
CLIP itself. The defaults are LoRA's: rank 8 on the fused map of query, key and value in all layers of both towers, with
one A and one B for the three. The magnitudes are added to LoRA's 491,520 scalars: 537,600 on ViT-B/32 and ViT-B/16.

peft 0.21.2 gives the same embeddings and gradients, as a test shows. It has an A for each of query, key and value.

Other parts of a model act on the same maps (LoRA, IA3). They compose in their order: the magnitudes scale what those
before add to V x, and those after act on y.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.backbones.hooks import Flow, Hooks, Part
from components.config import STRICT
from components.methods.base import Method
from components.methods.lora import LoRASettings, Update
from components.methods.parts import chosen_layers, float32


@dataclass(frozen=True, config=STRICT)
class DoRASettings(LoRASettings):
    """Rank and places, the same as LoRA's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vision_layers == () == self.text_layers:
            raise ValueError("vision_layers and text_layers are both empty: nothing would train (use zero_shot)")


class DoRA(Method[DoRASettings]):
    """Low-rank updates with magnitudes, by layer and target."""

    def setup(self) -> None:
        settings, where = self.settings, f"methods.{self.name}"
        self.video = self._directions(self.backbone.vision, f"{where}.vision_layers", settings.vision_layers)
        self.text = self._directions(self.backbone.text, f"{where}.text_layers", settings.text_layers)

    def _directions(self, tower: Any, where: str, layers: tuple[int, ...] | None) -> nn.ModuleDict:
        blocks, rank, targets = tower.layers.blocks, self.settings.rank, sorted(set(self.settings.targets))
        return nn.ModuleDict(
            {
                str(i): nn.ModuleDict({part: Direction(linear_map(blocks[i], part)[0], rank) for part in targets})
                for i in chosen_layers(where, layers, len(blocks))
            }
        )

    def vision_hooks(self) -> Hooks:
        return _Directions(self.video, self.backbone.vision, self.settings.factor)

    def text_hooks(self) -> Hooks:
        return _Directions(self.text, self.backbone.text, self.settings.factor)


def linear_map(block: Any, part: Part) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of one of a block's four linear maps."""
    if part == "qkv":
        return block.attn.in_proj_weight, block.attn.in_proj_bias
    layer = {"out": block.attn.out_proj, "fc": block.mlp.c_fc, "proj": block.mlp.c_proj}[part]
    return layer.weight, layer.bias


def row_norms(weight: Tensor) -> Tensor:
    """The norm of each row: ``float[outputs, inputs] -> float[outputs]``."""
    return torch.linalg.vector_norm(weight, dim=1)


class Direction(nn.Module):
    """The update of one map: A and B, and the magnitudes m: ``float[outputs]``.

    Args:
        weight: W, ``float[outputs, inputs]``.
        rank: r.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.update = Update(weight.shape[1], weight.shape[0], rank)
        self.magnitude = nn.Parameter(row_norms(weight.detach()))

    def forward(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, factor: float) -> Tensor:
        """``m * (V x) / |V| + b``, given ``x`` and ``y = W x + b``: ``float[..., outputs]``."""
        # Norms in half precision would be too coarse: at the start, m / |V| is exactly one.
        with float32(x.device):
            with torch.no_grad():
                norms = row_norms(torch.addmm(weight, self.update.b, self.update.a, alpha=factor))
            scale = self.magnitude / norms
        # As a difference from y, so that the untrained method returns y to the bit.
        plain = y if bias is None else y - bias
        return (y + (scale - 1) * plain + scale * (self.update(x) * factor)).to(y.dtype)


class _Directions(Hooks):
    token_wise = True

    def __init__(self, layers: nn.ModuleDict, tower: Any, factor: float) -> None:
        self.layers = {int(i): layer for i, layer in layers.items() if isinstance(layer, nn.ModuleDict)}
        self.tower, self.factor = tower, factor

    def project(self, i: int, part: Part, x: Tensor, y: Tensor, flow: Flow) -> Tensor:
        if i not in self.layers or part not in self.layers[i]:
            return y
        updated: Tensor = self.layers[i][part](x, y, *linear_map(self.tower.layers.blocks[i], part), self.factor)
        return updated
