"""VPT: visual prompts alone (Jia et al., ECCV 2022), the "VPT" row of text-video comparisons.

``deep``: fresh prompts ``[CLS, P, patches]`` in every layer, those of the first pass ``ln_pre``; ``shallow``: prompts
come in before the first layer and run through all. The start is VPT's uniform one. 20 deep prompts are the 0.18 M of
Cross-Modal Adapter's comparison on ViT-B/32 (184,320).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from components import config
from components.backbones.clip import Backbone
from components.backbones.towers import Hooks
from components.methods.base import Method, MethodSettings, TrainedSettings
from components.methods.prompts import KeptPrompts, LayerPrompts


@dataclass(frozen=True, config=config.STRICT)
class VPTSettings(TrainedSettings):
    """Number and depth of prompts.

    Attributes:
        prompts: number per layer.
        depth: in every layer, or before the first alone.
    """

    prompts: Annotated[int, Field(ge=1, le=256)] = 20
    depth: Literal["deep", "shallow"] = "deep"


class VPT(Method):
    """Prompts in the vision tower."""

    name: ClassVar[str] = "vpt"
    Settings: ClassVar[type[MethodSettings]] = VPTSettings
    starts_as_identity = False

    def __init__(self, backbone: Backbone, settings: VPTSettings, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        spec = backbone.spec
        layers = spec.vision_layers if settings.depth == "deep" else 1
        # Xavier's bound for a patch embedding, as in VPT's code.
        bound = (6 / (3 * spec.patch_size**2 + spec.vision_width)) ** 0.5
        self.prompts = nn.Parameter(torch.empty(layers, settings.prompts, spec.vision_width).uniform_(-bound, bound))

    def vision_hooks(self) -> Hooks:
        if self.settings.depth == "shallow":
            return KeptPrompts(self.prompts[0], positions=False)
        return LayerPrompts(self.prompts, range(self.spec.vision_layers))
