"""Adapter^ATTN: bottleneck adapters in parallel with every multi-head attention of both encoders (VoP, section 4.1).

``x + MHA(h) + s * ReLU(h W_down) W_up`` with ``h = LN_1(x)``, hidden width 64: 1,982,976 scalars in ViT-B/32. VoP names
the place and the width; that the adapter reads what attention reads, ReLU, scale 1 and the zero start of W_up are ours.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components import config
from components.backbones.clip import Backbone
from components.backbones.towers import Flow, Hooks
from components.methods.base import Method, MethodSettings, TrainedSettings
from components.methods.parts import Activation, Bottleneck, chosen_layers


@dataclass(frozen=True, config=config.STRICT)
class AdapterSettings(TrainedSettings):
    """Sizes of parallel adapters.

    Attributes:
        bottleneck: hidden width.
        scale: s, factor on the output.
        activation: between the projections.
        vision_layers: layers with an adapter, from 0; None for all.
        text_layers: the same of the text tower.
    """

    bottleneck: Annotated[int, Field(ge=1)] = 64
    scale: float = 1.0
    activation: Activation = "relu"
    vision_layers: tuple[int, ...] | None = None
    text_layers: tuple[int, ...] | None = None


class ParallelAdapters(Method):
    """A bottleneck per layer and tower; where it stands is the subclass's."""

    Settings: ClassVar[type[MethodSettings]] = AdapterSettings
    hooks: ClassVar[type[AdapterHooks]]

    def __init__(self, backbone: Backbone, settings: AdapterSettings, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        spec = backbone.spec
        vision = chosen_layers(f"methods.{self.name}.vision_layers", settings.vision_layers, spec.vision_layers)
        text = chosen_layers(f"methods.{self.name}.text_layers", settings.text_layers, spec.text_layers)
        self.video = nn.ModuleDict({str(i): self._adapter(spec.vision_width) for i in vision})
        self.text = nn.ModuleDict({str(i): self._adapter(spec.text_width) for i in text})

    def _adapter(self, width: int) -> Bottleneck:
        settings = self.settings
        return Bottleneck(width, settings.bottleneck, scale=settings.scale, activation=settings.activation)

    def vision_hooks(self) -> Hooks:
        return self.hooks(self.video)

    def text_hooks(self) -> Hooks:
        return self.hooks(self.text)


class AdapterHooks(Hooks):
    """Adapters by layer; a subclass says where they stand."""

    def __init__(self, adapters: nn.ModuleDict) -> None:
        self.adapters = {int(name): module for name, module in adapters.items()}

    def added(self, i: int, source: Tensor, to: Tensor, flow: Flow) -> Tensor:
        """``to`` with layer ``i``'s adapter of ``source`` added at CLIP's own tokens."""
        if i not in self.adapters:
            return to
        return flow.add_own(to, self.adapters[i](flow.own_tokens(source)))


class _BesideAttention(AdapterHooks):
    def after_attention(self, i: int, x: Tensor, h: Tensor, a: Tensor, flow: Flow) -> Tensor:
        return self.added(i, h, a, flow)


class AdapterAttn(ParallelAdapters):
    """Adapters beside attention."""

    name: ClassVar[str] = "adapter_attn"
    hooks: ClassVar[type[AdapterHooks]] = _BesideAttention
