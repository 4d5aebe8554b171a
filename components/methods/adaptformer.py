"""AdaptFormer: AdaptMLP bottlenecks at every feed-forward network (Chen et al., NeurIPS 2022; MV-Adapter, section 4.1).

In the vision tower either in parallel, ``x + MLP(LN_2(x)) + s * ReLU(LN(x) W_down) W_up``, or in sequence behind the
MLP, ``x + m + s * ReLU(LN(m) W_down) W_up`` with ``m = MLP(LN_2(x))``; the text tower has the sequential form in both
(rows Adapt_par and Adapt_seq). Width 128 with a layer norm is the size that gives the printed 2.78 % of ViT-B/16,
CLIP's biases counted (``train_biases: true``); scale 0.1 and the zero start are AdaptFormer's.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components import config
from components.backbones.clip import Backbone
from components.backbones.towers import Flow, Hooks
from components.methods.adapter_attn import AdapterHooks
from components.methods.base import Method, MethodSettings, TrainedSettings
from components.methods.parts import Bottleneck

Width = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=config.STRICT)
class AdaptFormerSettings(TrainedSettings):
    """Sizes of AdaptMLP.

    Attributes:
        bottleneck: hidden width.
        scale: s, factor on the output.
        norm: whether a layer norm stands before W_down.
    """

    bottleneck: Width = 128
    scale: float = 0.1
    norm: bool = True


class Beside(AdapterHooks):
    """AdaptMLP in parallel with the layer norm and the MLP."""

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        return self.added(i, x, m, flow)


class Behind(AdapterHooks):
    """AdaptMLP behind the MLP."""

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        return self.added(i, m, m, flow)


class AdaptFormer(Method):
    """AdaptMLP in every layer of both towers."""

    Settings: ClassVar[type[MethodSettings]] = AdaptFormerSettings
    vision: ClassVar[type[AdapterHooks]]

    def __init__(self, backbone: Backbone, settings: AdaptFormerSettings, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        spec = backbone.spec
        self.video = adapt_mlps(spec.vision_layers, spec.vision_width, settings.bottleneck, settings)
        self.text = adapt_mlps(spec.text_layers, spec.text_width, settings.bottleneck, settings)

    def vision_hooks(self) -> Hooks:
        return self.vision(self.video)

    def text_hooks(self) -> Hooks:
        return Behind(self.text)


def adapt_mlps(layers: int, width: int, hidden: int, settings: AdaptFormerSettings | None = None) -> nn.ModuleDict:
    """An AdaptMLP per layer, none for ``hidden`` 0; scale and norm as in ``settings`` or by default."""
    scale, norm = (settings.scale, settings.norm) if settings else (0.1, True)
    return nn.ModuleDict(
        {str(i): Bottleneck(width, hidden, scale=scale, norm=norm) for i in range(layers if hidden else 0)}
    )


class AdaptFormerParallel(AdaptFormer):
    """Adapt_par."""

    name: ClassVar[str] = "adaptformer_par"
    vision: ClassVar[type[AdapterHooks]] = Beside


class AdaptFormerSequential(AdaptFormer):
    """Adapt_seq."""

    name: ClassVar[str] = "adaptformer_seq"
    vision: ClassVar[type[AdapterHooks]] = Behind
