"""A method that is no part of the project: one scalar on every frame feature. Registered by a test."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components import config
from components.backbones.clip import Backbone
from components.methods.base import Method, MethodSettings, TrainedSettings, mean_pool


@dataclass(frozen=True, config=config.STRICT)
class TinySettings(TrainedSettings):
    """Attributes:
    start: of the gains.
    """

    start: float = 1.0


class Tiny(Method):
    """A gain per channel of the joint space."""

    name: ClassVar[str] = "tiny_method"
    Settings: ClassVar[type[MethodSettings]] = TinySettings
    pools_itself = True

    def __init__(self, backbone: Backbone, settings: Any, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        self.gain = nn.Parameter(torch.full((backbone.spec.embed_dim,), settings.start))

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        return mean_pool(features * self.gain, mask)
