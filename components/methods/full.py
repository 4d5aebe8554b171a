"""Full fine-tuning: every weight of CLIP trains, frames are pooled by their mean (the "Full" row of both papers).

Sine-cosine positions stay as they are, being fixed by definition; so does the logit scale, unless
``train_logit_scale`` is set. The "adapter" of this method is a whole copy of the backbone's weights.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from components import config
from components.backbones.clip import Backbone
from components.methods.base import Method, MethodSettings, TrainedSettings


@dataclass(frozen=True, config=config.STRICT)
class FullSettings(TrainedSettings):
    """Full fine-tuning needs a learning rate only."""


class Full(Method):
    """A trainable copy of the backbone."""

    name: ClassVar[str] = "full"
    Settings: ClassVar[type[MethodSettings]] = FullSettings
    trains_backbone: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, settings: Any, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name not in self.backbone.fixed and name != "logit_scale")
