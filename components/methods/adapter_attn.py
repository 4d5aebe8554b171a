"""Adapter^ATTN: bottleneck adapters in parallel with every multi-head attention of both encoders (VoP, section 4.1).

``x + MHA(h) + s * ReLU(h W_down) W_up`` with ``h = LN_1(x)``, hidden width 64: 1,982,976 scalars in ViT-B/32.

VoP gives the place and the width. Three choices are ours: the adapter reads the input of attention, it uses ReLU and
scale 1, and W_up starts at zero.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.backbones.hooks import Flow, Hooks
from components.config import STRICT
from components.methods.base import Method, TrainedSettings
from components.methods.parts import Activation, Bottleneck, chosen_layers


@dataclass(frozen=True, config=STRICT)
class AdapterSettings(TrainedSettings):
    """Sizes of parallel adapters.

    Attributes:
        bottleneck: Hidden width.
        scale: s, the factor on the output.
        activation: The function between the projections.
        vision_layers: Layers of the vision tower with an adapter, from 0. None means all.
        text_layers: Layers of the text tower with an adapter, from 0. None means all.
    """

    bottleneck: Annotated[int, Field(ge=1)] = 64
    scale: float = 1.0
    activation: Activation = "relu"
    vision_layers: tuple[int, ...] | None = None
    text_layers: tuple[int, ...] | None = None


class AdapterHooks(Hooks):
    """Adapters by layer. A subclass calls :meth:`added` in the hook where they act."""

    token_wise = True

    def __init__(self, adapters: nn.ModuleDict) -> None:
        self.adapters = {int(name): module for name, module in adapters.items()}

    def added(self, i: int, source: Tensor, to: Tensor, flow: Flow) -> Tensor:
        """``to`` plus the output of layer ``i``'s adapter for ``source``, at CLIP's tokens only."""
        if i not in self.adapters:
            return to
        return flow.add_own(to, self.adapters[i](flow.own_tokens(source)))


class ParallelAdapters(Method[AdapterSettings]):
    """A bottleneck per layer and tower. ``hooks``, set by a subclass, adds its output."""

    hooks: ClassVar[type[AdapterHooks]]

    def setup(self) -> None:
        spec, settings = self.spec, self.settings
        where = f"methods.{self.name}"
        vision = chosen_layers(f"{where}.vision_layers", settings.vision_layers, spec.vision_layers)
        text = chosen_layers(f"{where}.text_layers", settings.text_layers, spec.text_layers)
        self.video = nn.ModuleDict({str(i): self._adapter(spec.vision_width) for i in vision})
        self.text = nn.ModuleDict({str(i): self._adapter(spec.text_width) for i in text})

    def _adapter(self, width: int) -> Bottleneck:
        settings = self.settings
        return Bottleneck(width, settings.bottleneck, scale=settings.scale, activation=settings.activation)

    def vision_hooks(self) -> Hooks:
        return self.hooks(self.video)

    def text_hooks(self) -> Hooks:
        return self.hooks(self.text)


class _NextToAttention(AdapterHooks):
    def after_attention(self, i: int, x: Tensor, h: Tensor, a: Tensor, flow: Flow) -> Tensor:
        return self.added(i, h, a, flow)


class AdapterAttn(ParallelAdapters):
    """Adapters in parallel with attention."""

    hooks: ClassVar[type[AdapterHooks]] = _NextToAttention
