"""Partial: only the last transformer layers of both encoders train (the "Partial" row of VoP's tables: one layer).

In ViT-B/32, one layer of each tower has 10,240,256 scalars. VoP prints 6.410 % = 7,680,512, which leaves out
attention's fused input projection. Layer norms and projections after the last layer stay frozen.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.backbones.clip import Backbone
from components.config import STRICT
from components.errors import ConfigError
from components.methods.base import Method, TrainedSettings


@dataclass(frozen=True, config=STRICT)
class PartialSettings(TrainedSettings):
    """How much trains.

    Attributes:
        layers: n, the number of last layers of each tower that train.
    """

    layers: Annotated[int, Field(ge=1)] = 1


class Partial(Method[PartialSettings]):
    """CLIP with trainable last layers."""

    def tuned(self, backbone: Backbone) -> set[str]:
        spec, last = backbone.spec, self.settings.layers
        depth = {"vision": spec.vision_layers, "text": spec.text_layers}
        if last > min(depth.values()):
            raise ConfigError(
                "more layers than a tower has",
                where=f"methods.{self.name}.layers",
                found=last,
                expected=f"at most {min(depth.values())} on {spec.model}",
                cure="use the method full to train all layers",
            )
        prefixes = tuple(
            f"{tower}.layers.blocks.{i}." for tower, layers in depth.items() for i in range(layers - last, layers)
        )
        return super().tuned(backbone) | {name for name, _ in backbone.named_parameters() if name.startswith(prefixes)}
