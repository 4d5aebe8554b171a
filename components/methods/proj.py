"""Proj: only the last linear projection of both encoders trains (the "Proj" row of VoP's tables).

``vision.proj`` and ``text.text_projection``, 655,360 scalars in ViT-B/32. Both train with their biases where they have
some. SigLIP's vision tower has no projection, so there only the text's trains.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from components.backbones.clip import Backbone
from components.config import STRICT
from components.methods.base import Method, TrainedSettings

_PROJECTIONS = ("vision.proj", "text.text_projection")


@dataclass(frozen=True, config=STRICT)
class ProjSettings(TrainedSettings):
    """Only the learning rate must be set."""


class Proj(Method[ProjSettings]):
    """CLIP with trainable output projections."""

    def tuned(self, backbone: Backbone) -> set[str]:
        projections = {name for name, _ in backbone.named_parameters() if name.startswith(_PROJECTIONS)}
        return super().tuned(backbone) | projections
