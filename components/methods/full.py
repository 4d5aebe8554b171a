"""Full fine-tuning: every weight of CLIP trains, frames are pooled by their mean (the "Full" row of both papers).

Sine-cosine positions stay as they are, being fixed by definition; so does the logit scale, unless
``train_logit_scale`` is set. The "adapter" of this method is a whole copy of the backbone's weights.
"""

from __future__ import annotations

from typing import ClassVar

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

    def tuned(self, backbone: Backbone) -> set[str]:
        return {name for name, _ in backbone.named_parameters()} - backbone.fixed - {"logit_scale"}
