"""LoRA: low-rank updates of frozen linear maps in both towers (Hu et al., ICLR 2022).

``y = W x + b + (alpha / r) B A x``. A starts at random, B at zero. The default is the baseline of TempMe (ICLR 2025):
rank 8 on attention's fused query, key and value map of all layers. One A and one B serve the three maps, 491,520
scalars in ViT-B/32.

A test shows that merged weights, ``W + (alpha / r) B A``, give the same embeddings. peft 0.21.2 gives the same
embeddings to the bit for the MLP's two maps. Its wrapper of attention has no effect here: the towers read the fused
weights and never call the module that peft replaces.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.hooks import Flow, Hooks, Part
from components.config import STRICT
from components.methods.base import Method, TrainedSettings
from components.methods.parts import chosen_layers


@dataclass(frozen=True, config=STRICT)
class LoRASettings(TrainedSettings):
    """Rank and places.

    Attributes:
        rank: r.
        alpha: Numerator of the factor alpha / r. None means r, which makes the factor one.
        targets: Linear maps with an update: ``qkv`` and ``out`` of attention, ``fc`` and ``proj`` of the MLP.
        vision_layers: Layers of the vision tower with updates, from 0. None means all.
        text_layers: Layers of the text tower with updates, from 0. None means all.
    """

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] | None = None
    targets: tuple[Part, ...] = ("qkv",)
    vision_layers: tuple[int, ...] | None = None
    text_layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("targets is empty: nothing would train")

    @property
    def factor(self) -> float:
        """alpha / r."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class LoRA(Method[LoRASettings]):
    """Low-rank updates by layer and target."""

    def setup(self) -> None:
        spec, settings = self.spec, self.settings
        where = f"methods.{self.name}"
        vision = chosen_layers(f"{where}.vision_layers", settings.vision_layers, spec.vision_layers)
        text = chosen_layers(f"{where}.text_layers", settings.text_layers, spec.text_layers)
        self.video = self._updates(vision, spec.vision_width)
        self.text = self._updates(text, spec.text_width)

    def _updates(self, layers: list[int], width: int) -> nn.ModuleDict:
        sizes: dict[Part, tuple[int, int]] = {
            "qkv": (width, 3 * width), "out": (width, width), "fc": (width, 4 * width), "proj": (4 * width, width),
        }  # fmt: skip
        rank, targets = self.settings.rank, sorted(set(self.settings.targets))
        return nn.ModuleDict(
            {str(i): nn.ModuleDict({part: Update(*sizes[part], rank) for part in targets}) for i in layers}
        )

    def vision_hooks(self) -> Hooks:
        return Updates(self.video, self.settings.factor)

    def text_hooks(self) -> Hooks:
        return Updates(self.text, self.settings.factor)


class Update(nn.Module):
    """``B A x``: ``float[..., inputs] -> float[..., outputs]``."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.empty(rank, inputs)), nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.a), self.b)


class Updates(Hooks):
    """Adds ``factor * B A x`` to the chosen maps of the chosen layers."""

    token_wise = True

    def __init__(self, layers: nn.ModuleDict, factor: float) -> None:
        parts = {name: layer for name, layer in layers.items() if isinstance(layer, nn.ModuleDict)}
        self.updates = {f"{i}.{part}": update for i, layer in parts.items() for part, update in layer.items()}
        self.factor = factor

    def project(self, i: int, part: Part, x: Tensor, y: Tensor, flow: Flow) -> Tensor:
        key = f"{i}.{part}"
        return y + self.updates[key](x) * self.factor if key in self.updates else y
