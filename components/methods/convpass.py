"""Convpass: convolutional bypasses next to attention and MLP of the vision tower (Jie and Deng, arXiv 2207.07039).

``x + MHA(h) + s * act(Conv3x3(act(h W_down))) W_up``, and the same next to the MLP. Patches are convolved on their 2-D
grid. The class token is a grid of one token. The text tower gets sequential AdaptMLPs, as in MV-Adapter's comparison
(section 4.1, equation of the Convpass row).

QuickGELU, the identity start of the convolution and the zero start of W_up come from the authors' code. Its dropout of
0.1 is left out. MV-Adapter prints 2.80 % without the bottleneck's width: with CLIP's biases, 48 gives 2.71 % and 51
would give 2.82 %.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.backbones.hooks import Flow, Hooks
from components.backbones.towers import quick_gelu
from components.config import STRICT
from components.methods.adaptformer import SequentialHooks, adapt_mlps
from components.methods.base import Method, TrainedSettings

Place = Literal["attention", "mlp"]


@dataclass(frozen=True, config=STRICT)
class ConvpassSettings(TrainedSettings):
    """Sizes and places.

    Attributes:
        bottleneck: Channels of the convolution.
        scale: s, the factor on the output.
        places: What the bypasses are next to.
        text_bottleneck: Hidden width of the text tower's AdaptMLPs. 0 means no adapters there.
    """

    bottleneck: Annotated[int, Field(ge=1)] = 48
    scale: float = 0.1
    places: tuple[Place, ...] = ("attention", "mlp")
    text_bottleneck: Annotated[int, Field(ge=0)] = 128

    def __post_init__(self) -> None:
        if not self.places:
            raise ValueError("places is empty: nothing would train in the vision tower")


class Convpass(Method[ConvpassSettings]):
    """Convolutional bypasses in the vision tower, AdaptMLPs in the text tower."""

    def setup(self) -> None:
        spec, settings = self.spec, self.settings
        self.video = nn.ModuleDict(
            {
                place: nn.ModuleList([Bypass(spec.vision_width, settings) for _ in range(spec.vision_layers)])
                for place in sorted(set(settings.places))
            }
        )
        self.text = adapt_mlps(spec.text_layers, spec.text_width, settings.text_bottleneck)

    def vision_hooks(self) -> Hooks:
        return _Bypasses(self.video)

    def text_hooks(self) -> Hooks:
        return SequentialHooks(self.text)


class _Bypasses(Hooks):
    # The class token that the last layer reads out is convolved alone, so that layer needs no patches.
    def __init__(self, bypasses: nn.ModuleDict) -> None:
        self.bypasses: dict[str, Any] = dict(bypasses.items())

    def _added(self, place: Place, i: int, h: Tensor, to: Tensor, flow: Flow) -> Tensor:
        if place not in self.bypasses:
            return to
        if flow.pooled_only:
            return to + self.bypasses[place][i].of_class_tokens(h)
        return flow.add_own(to, self.bypasses[place][i](flow.own_tokens(h), flow.prefix))

    def after_attention(self, i: int, x: Tensor, h: Tensor, a: Tensor, flow: Flow) -> Tensor:
        return self._added("attention", i, h, a, flow)

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        return self._added("mlp", i, h, m, flow)


class Bypass(nn.Module):
    """``s * act(Conv3x3(act(h W_down))) W_up``."""

    def __init__(self, width: int, settings: ConvpassSettings) -> None:
        super().__init__()
        hidden, self.scale = settings.bottleneck, settings.scale
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.conv.weight)
        with torch.no_grad():
            self.conv.weight[:, :, 1, 1] = torch.eye(hidden)
        nn.init.zeros_(self.up.weight)
        for module in (self.down, self.conv, self.up):
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor, prefix: int = 1) -> Tensor:
        """``float[n, prefix+N, D] -> float[n, prefix+N, D]``, class token first if there is one."""
        side = round((h.shape[1] - prefix) ** 0.5)
        u = quick_gelu(self.down(h))
        grid = u[:, prefix:].transpose(1, 2).unflatten(2, (side, side))
        classes = self._class_convolution(u[:, :prefix])
        return self._up(torch.cat([classes, self.conv(grid).flatten(2).transpose(1, 2)], dim=1))

    def of_class_tokens(self, h: Tensor) -> Tensor:
        """``float[n, R, D] -> float[n, R, D]``. Each token is a grid of one token."""
        return self._up(self._class_convolution(quick_gelu(self.down(h))))

    def _class_convolution(self, u: Tensor) -> Tensor:
        # Zero padding surrounds a grid of one token, so only the centre of the kernel acts.
        return nn.functional.linear(u, self.conv.weight[:, :, 1, 1], self.conv.bias)

    def _up(self, u: Tensor) -> Tensor:
        return self.up(quick_gelu(u)) * self.scale
