"""Convpass: convolutional by-passes beside attention and MLP of the vision tower (Jie and Deng, arXiv 2207.07039).

``x + MHA(h) + s * act(Conv3x3(act(h W_down))) W_up`` and the same beside the MLP. Patches are convolved on their 2-D
grid, the class token as a grid of one by itself. The text tower gets sequential AdaptMLPs, as in MV-Adapter's
comparison (section 4.1, equation of the Convpass row). QuickGELU, the identity start of the convolution and the zero
start of W_up are the authors' code's. Its dropout of 0.1 is left out. The bottleneck behind MV-Adapter's printed 2.80 %
is not published: 48 gives 2.71 % with CLIP's biases, 51 would give 2.82 %.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components import config
from components.backbones.clip import Backbone
from components.backbones.towers import Flow, Hooks, quick_gelu
from components.methods.adaptformer import Behind, adapt_mlps
from components.methods.base import Method, MethodSettings, TrainedSettings

Place = Literal["attention", "mlp"]


@dataclass(frozen=True, config=config.STRICT)
class ConvpassSettings(TrainedSettings):
    """Sizes and places.

    Attributes:
        bottleneck: channels of the convolution.
        scale: s, factor on the output.
        places: beside what the by-passes stand.
        text_bottleneck: hidden width of the text tower's AdaptMLPs; 0 for none.
    """

    bottleneck: Annotated[int, Field(ge=1)] = 48
    scale: float = 0.1
    places: tuple[Place, ...] = ("attention", "mlp")
    text_bottleneck: Annotated[int, Field(ge=0)] = 128

    def __post_init__(self) -> None:
        if not self.places:
            raise ValueError("places is empty: nothing would train in the vision tower")


class Convpass(Method):
    """Convolutional by-passes in the vision tower, AdaptMLPs in the text tower."""

    name: ClassVar[str] = "convpass"
    Settings: ClassVar[type[MethodSettings]] = ConvpassSettings

    def __init__(self, backbone: Backbone, settings: ConvpassSettings, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        spec, places = backbone.spec, sorted(set(settings.places))
        self.video = nn.ModuleDict(
            {
                place: nn.ModuleList([ByPass(spec.vision_width, settings) for _ in range(spec.vision_layers)])
                for place in places
            }
        )
        self.text = adapt_mlps(spec.text_layers, spec.text_width, settings.text_bottleneck)

    def vision_hooks(self) -> Hooks:
        return _ByPasses(self.video)

    def text_hooks(self) -> Hooks:
        return Behind(self.text)


class _ByPasses(Hooks):
    # The read-out class token of the last layer is convolved alone, so the patches there are not needed.
    def __init__(self, by_passes: nn.ModuleDict) -> None:
        self.by_passes: dict[str, Any] = dict(by_passes.items())

    def _added(self, place: Place, i: int, h: Tensor, to: Tensor, flow: Flow) -> Tensor:
        if place not in self.by_passes:
            return to
        if flow.pooled_only:
            return to + self.by_passes[place][i].of_class_tokens(h)
        return flow.add_own(to, self.by_passes[place][i](flow.own_tokens(h)))

    def after_attention(self, i: int, x: Tensor, h: Tensor, a: Tensor, flow: Flow) -> Tensor:
        return self._added("attention", i, h, a, flow)

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        return self._added("mlp", i, h, m, flow)


class ByPass(nn.Module):
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

    def forward(self, h: Tensor) -> Tensor:
        """``float[n, 1+N, D] -> float[n, 1+N, D]``, class token first."""
        side = round((h.shape[1] - 1) ** 0.5)
        u = quick_gelu(self.down(h))
        grid = u[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        return self._up(torch.cat([self._alone(u[:, :1]), self.conv(grid).flatten(2).transpose(1, 2)], dim=1))

    def of_class_tokens(self, h: Tensor) -> Tensor:
        """``float[n, R, D] -> float[n, R, D]``, each token a grid by itself."""
        return self._up(self._alone(quick_gelu(self.down(h))))

    def _alone(self, u: Tensor) -> Tensor:
        # Around a grid of one there is only zero padding: the centre of the kernel is all that acts.
        return nn.functional.linear(u, self.conv.weight[:, :, 1, 1], self.conv.bias)

    def _up(self, u: Tensor) -> Tensor:
        return self.up(quick_gelu(u)) * self.scale
