"""VPT: prompts in the vision tower only (Jia et al., ECCV 2022), the "VPT" row of text-video comparisons.

``deep`` puts fresh prompts ``[CLS, P, patches]`` into every layer, and those of the first layer pass ``ln_pre``.
``shallow`` puts prompts in before the first layer, and they run through all layers. Prompts start from VPT's uniform
distribution. 20 deep prompts are the 0.18 M of Cross-Modal Adapter's comparison on ViT-B/32 (184,320).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from components.backbones.hooks import Hooks
from components.config import STRICT
from components.methods.base import Method, TrainedSettings
from components.methods.prompts import KeptPrompts, LayerPrompts


@dataclass(frozen=True, config=STRICT)
class VPTSettings(TrainedSettings):
    """Number and depth of prompts.

    Attributes:
        prompts: The number of prompts per layer.
        depth: ``deep``: prompts in every layer. ``shallow``: prompts only before the first layer.
    """

    prompts: Annotated[int, Field(ge=1, le=256)] = 20
    depth: Literal["deep", "shallow"] = "deep"


class VPT(Method[VPTSettings]):
    """Prompts in the vision tower."""

    starts_as_identity = False

    def setup(self) -> None:
        spec, settings = self.spec, self.settings
        layers = spec.vision_layers if settings.depth == "deep" else 1
        # Xavier's bound for a patch embedding, as in VPT's code.
        bound = (6 / (3 * spec.patch_size**2 + spec.vision_width)) ** 0.5
        self.prompts = nn.Parameter(torch.empty(layers, settings.prompts, spec.vision_width).uniform_(-bound, bound))

    def vision_hooks(self) -> Hooks:
        if self.settings.depth == "shallow":
            return KeptPrompts(self.prompts[0], positions=False)
        return LayerPrompts(self.prompts, range(self.spec.vision_layers))
