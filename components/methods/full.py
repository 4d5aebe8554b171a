"""Full fine-tuning: every weight of CLIP trains, and frames are pooled by their mean (the "Full" row of both papers).

Sine-cosine positions do not train, since they are fixed by definition. The logit scale trains only with
``train_logit_scale``. The "adapter" of this method is a copy of all the backbone's weights.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from components.backbones.clip import Backbone
from components.config import STRICT
from components.methods.base import Method, TrainedSettings


@dataclass(frozen=True, config=STRICT)
class FullSettings(TrainedSettings):
    """Only the learning rate must be set."""


class Full(Method[FullSettings]):
    """A trainable copy of the backbone."""

    def tuned(self, backbone: Backbone) -> set[str]:
        return {name for name, _ in backbone.named_parameters()} - backbone.fixed - {"logit_scale", "logit_bias"}
