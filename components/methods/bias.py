"""Bias: only CLIP's own biases train (the "Bias" row of VoP's tables; the idea is BitFit's, Zaken et al., ACL 2022).

All of them: layer norms, both linear maps of the MLP, the attention's output and its fused input, 171,008 scalars in
ViT-B. VoP prints 0.104 % = 124,928 scalars, a count that leaves out the 46,080 of ``in_proj_bias`` (as its denominator
leaves out all raw parameters).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from components import config
from components.backbones.clip import Backbone
from components.methods.base import Method, MethodSettings, TrainedSettings, biases


@dataclass(frozen=True, config=config.STRICT)
class BiasSettings(TrainedSettings):
    """A learning rate only; ``train_biases`` is what the method is."""


class Bias(Method):
    """CLIP with trainable biases."""

    name: ClassVar[str] = "bias"
    Settings: ClassVar[type[MethodSettings]] = BiasSettings

    def tuned(self, backbone: Backbone) -> set[str]:
        return biases(backbone)
