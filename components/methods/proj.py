"""Proj: only the last linear projection of both encoders trains (the "Proj" row of VoP's tables).

``vision.proj`` and ``text.text_projection``, 655,360 scalars in ViT-B/32.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from components import config
from components.backbones.clip import Backbone
from components.methods.base import Method, MethodSettings, TrainedSettings


@dataclass(frozen=True, config=config.STRICT)
class ProjSettings(TrainedSettings):
    """A learning rate only."""


class Proj(Method):
    """CLIP with trainable output projections."""

    name: ClassVar[str] = "proj"
    Settings: ClassVar[type[MethodSettings]] = ProjSettings

    def tuned(self, backbone: Backbone) -> set[str]:
        return super().tuned(backbone) | {"vision.proj", "text.text_projection"}
