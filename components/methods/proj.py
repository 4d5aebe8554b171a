"""Proj: only the last linear projection of both encoders trains (the "Proj" row of VoP's tables).

``vision.proj`` and ``text.text_projection``, 655,360 scalars in ViT-B/32.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from components.backbones.clip import Backbone
from components.config import STRICT
from components.methods.base import Method, TrainedSettings


@dataclass(frozen=True, config=STRICT)
class ProjSettings(TrainedSettings):
    """Only the learning rate must be set."""


class Proj(Method[ProjSettings]):
    """CLIP with trainable output projections."""

    def tuned(self, backbone: Backbone) -> set[str]:
        return super().tuned(backbone) | {"vision.proj", "text.text_projection"}
