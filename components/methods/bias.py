"""Bias: only CLIP's biases train (the "Bias" row of VoP's tables; the idea is from BitFit, Zaken et al., ACL 2022).

All biases train: those of layer norms, of both linear maps of the MLP, of attention's output and of its fused input.
These are 171,008 scalars in ViT-B. VoP prints 0.104 % = 124,928 scalars. That count leaves out the 46,080 scalars of
``in_proj_bias``, as its denominator leaves out all raw parameters.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from components.backbones.clip import Backbone
from components.config import STRICT
from components.methods.base import Method, TrainedSettings, biases


@dataclass(frozen=True, config=STRICT)
class BiasSettings(TrainedSettings):
    """Only the learning rate must be set. Biases train with or without ``train_biases``."""


class Bias(Method[BiasSettings]):
    """CLIP with trainable biases."""

    def tuned(self, backbone: Backbone) -> set[str]:
        return biases(backbone)
