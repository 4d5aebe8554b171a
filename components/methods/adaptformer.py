"""AdaptFormer: AdaptMLP bottlenecks at every feed-forward network (Chen et al., NeurIPS 2022; MV-Adapter, section 4.1).

The vision tower has one of two forms, the rows Adapt_par and Adapt_seq:

* parallel, ``x + MLP(LN_2(x)) + s * ReLU(LN(x) W_down) W_up``
* sequential, after the MLP, ``x + m + s * ReLU(LN(m) W_down) W_up`` with ``m = MLP(LN_2(x))``

The text tower has the sequential form in both rows. Width 128 with a layer norm gives the printed 2.78 % of ViT-B/16,
if CLIP's biases are counted (``train_biases: true``). Scale 0.1 and the zero start are AdaptFormer's.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.backbones.hooks import Flow, Hooks
from components.config import STRICT
from components.methods.adapter_attn import AdapterHooks
from components.methods.base import Method, TrainedSettings
from components.methods.parts import Bottleneck

Width = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class AdaptFormerSettings(TrainedSettings):
    """Sizes of AdaptMLP.

    Attributes:
        bottleneck: Hidden width.
        scale: s, the factor on the output.
        norm: Whether a layer norm comes before W_down.
    """

    bottleneck: Width = 128
    scale: float = 0.1
    norm: bool = True


class ParallelHooks(AdapterHooks):
    """AdaptMLP in parallel with the layer norm and the MLP."""

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        return self.added(i, x, m, flow)


class SequentialHooks(AdapterHooks):
    """AdaptMLP after the MLP."""

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        return self.added(i, m, m, flow)


class AdaptFormer(Method[AdaptFormerSettings]):
    """AdaptMLP in every layer of both towers."""

    vision: ClassVar[type[AdapterHooks]]

    def setup(self) -> None:
        spec, settings = self.spec, self.settings
        self.video = adapt_mlps(spec.vision_layers, spec.vision_width, settings.bottleneck, settings)
        self.text = adapt_mlps(spec.text_layers, spec.text_width, settings.bottleneck, settings)

    def vision_hooks(self) -> Hooks:
        return self.vision(self.video)

    def text_hooks(self) -> Hooks:
        return SequentialHooks(self.text)


def adapt_mlps(layers: int, width: int, hidden: int, settings: AdaptFormerSettings | None = None) -> nn.ModuleDict:
    """An AdaptMLP for each of ``layers`` layers, by number.

    Args:
        layers: The number of layers in the tower.
        width: D, the tower's width.
        hidden: Width of the bottleneck. 0 makes no AdaptMLP.
        settings: The source of scale and norm. None means AdaptFormer's.
    """
    scale, norm = (settings.scale, settings.norm) if settings else (0.1, True)
    return nn.ModuleDict(
        {str(i): Bottleneck(width, hidden, scale=scale, norm=norm) for i in range(layers if hidden else 0)}
    )


class AdaptFormerParallel(AdaptFormer):
    """Adapt_par."""

    vision: ClassVar[type[AdapterHooks]] = ParallelHooks


class AdaptFormerSequential(AdaptFormer):
    """Adapt_seq."""

    vision: ClassVar[type[AdapterHooks]] = SequentialHooks
