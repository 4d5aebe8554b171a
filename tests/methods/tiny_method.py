"""A method outside the project: a gain per channel of the joint space. Tests register it or name its module."""

from __future__ import annotations

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.config import STRICT
from components.methods.base import Method, TrainedSettings, mean_pool


@dataclass(frozen=True, config=STRICT)
class TinySettings(TrainedSettings):
    """The start of the gains.

    Attributes:
        start: The value of every gain before training.
    """

    start: float = 1.0


class Tiny(Method[TinySettings]):
    """A gain per channel of the joint space."""

    pools_itself = True

    def setup(self) -> None:
        self.gain = nn.Parameter(torch.full((self.spec.embed_dim,), self.settings.start))

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        return mean_pool(features * self.gain, mask)
