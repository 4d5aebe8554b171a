"""LoRA: low-rank updates of frozen linear maps (Hu et al., ICLR 2022), in both towers.

``y = W x + b + (alpha / r) B A x``, A random, B zero at the start. The default is the baseline of TempMe (ICLR 2025),
rank 8 on attention's fused query, key and value map of all layers: one A and one B for the three, 491,520 scalars in
ViT-B/32. The update stands in the towers' own hook, and a merged ``W + (alpha / r) B A`` gives the same embeddings,
which is tested. peft's LoRA on the same towers gives the same embeddings for the MLP's two maps (0.21.2, to the bit),
but its wrapper of attention changes nothing: the towers read the fused weights, and never call the module that it
replaces.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from components import config
from components.backbones.clip import Backbone
from components.backbones.towers import Flow, Hooks, Part
from components.methods.base import Method, MethodSettings, TrainedSettings
from components.methods.parts import chosen_layers


@dataclass(frozen=True, config=config.STRICT)
class LoRASettings(TrainedSettings):
    """Rank and places.

    Attributes:
        rank: r.
        alpha: numerator of the factor alpha / r; None for r, a factor of one.
        targets: linear maps with an update: attention's ``qkv`` and ``out``, the MLP's ``fc`` and ``proj``.
        vision_layers: layers with updates, from 0; None for all.
        text_layers: the same of the text tower.
    """

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] | None = None
    targets: tuple[Part, ...] = ("qkv",)
    vision_layers: tuple[int, ...] | None = None
    text_layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("targets is empty: nothing would train")


class LoRA(Method):
    """Low-rank updates by layer and target."""

    name: ClassVar[str] = "lora"
    Settings: ClassVar[type[MethodSettings]] = LoRASettings

    def __init__(self, backbone: Backbone, settings: LoRASettings, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        spec = backbone.spec
        vision = chosen_layers("methods.lora.vision_layers", settings.vision_layers, spec.vision_layers)
        text = chosen_layers("methods.lora.text_layers", settings.text_layers, spec.text_layers)
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

    @property
    def factor(self) -> float:
        """alpha / r."""
        return 1.0 if self.settings.alpha is None else self.settings.alpha / self.settings.rank

    def vision_hooks(self) -> Hooks:
        return _Updates(self.video, self.factor)

    def text_hooks(self) -> Hooks:
        return _Updates(self.text, self.factor)


class Update(nn.Module):
    """``B A x``: ``float[..., wide] -> float[..., out]``."""

    def __init__(self, wide: int, out: int, rank: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.empty(rank, wide)), nn.Parameter(torch.zeros(out, rank))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.a), self.b)


class _Updates(Hooks):
    def __init__(self, layers: nn.ModuleDict, factor: float) -> None:
        parts = {name: layer for name, layer in layers.items() if isinstance(layer, nn.ModuleDict)}
        self.updates = {f"{i}.{part}": update for i, layer in parts.items() for part, update in layer.items()}
        self.factor = factor

    def project(self, i: int, part: Part, x: Tensor, y: Tensor, flow: Flow) -> Tensor:
        key = f"{i}.{part}"
        return y + self.updates[key](x) * self.factor if key in self.updates else y
