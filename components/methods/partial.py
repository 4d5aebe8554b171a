"""Partial: only the last transformer layers of both encoders train (the "Partial" row of VoP's tables, with one layer).

In ViT-B/32 one layer of each tower is 10,240,256 scalars; VoP prints 6.410 % = 7,680,512, which leaves out attention's
fused input projection. Layer norms and projections behind the last layer stay frozen.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from components import config
from components.backbones.clip import Backbone
from components.errors import ConfigError
from components.methods.base import Method, MethodSettings, TrainedSettings


@dataclass(frozen=True, config=config.STRICT)
class PartialSettings(TrainedSettings):
    """How much trains.

    Attributes:
        layers: n, how many last layers of each tower train.
    """

    layers: Annotated[int, Field(ge=1)] = 1


class Partial(Method):
    """CLIP with trainable last layers."""

    name: ClassVar[str] = "partial"
    Settings: ClassVar[type[MethodSettings]] = PartialSettings

    def tuned(self, backbone: Backbone) -> set[str]:
        spec, last = backbone.spec, self.settings.layers
        depth = {"vision": spec.vision_layers, "text": spec.text_layers}
        if last > min(depth.values()):
            raise ConfigError(
                "more layers than a tower has",
                where="methods.partial.layers",
                found=last,
                expected=f"at most {min(depth.values())} on {spec.model}",
                cure="train all of them with method full",
            )
        chosen = tuple(
            f"{tower}.layers.blocks.{i}." for tower, layers in depth.items() for i in range(layers - last, layers)
        )
        own = {name for name, _ in backbone.named_parameters() if name.startswith(chosen)}
        return super().tuned(backbone) | own
