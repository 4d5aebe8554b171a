"""Cross-Modal Adapter: bottlenecks that share a part of W_up between towers (Jiang et al., arXiv 2211.09623).

After attention and after the MLP of every layer, ``a + act(a W_down) [W_up, W_up^cm]``. The last ``shared`` outputs
come from a matrix that the same layer of both towers shares. Towers of different depth are paired from their last
layers back. The authors' defaults (bottleneck 8, 16 shared, QuickGELU) give 519,168 scalars in ViT-B/32. Weights start
from a truncated normal distribution and not from zero, so the start is near CLIP but not equal to it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, cat, nn

from components.backbones.hooks import Flow, Hooks
from components.config import STRICT
from components.errors import ConfigError
from components.methods.base import Method, TrainedSettings
from components.methods.parts import Activation, activate


@dataclass(frozen=True, config=STRICT)
class CrossModalAdapterSettings(TrainedSettings):
    """Sizes of the adapters.

    Attributes:
        bottleneck: r, the hidden width.
        shared: d_s, the number of outputs with weights that both towers share.
        activation: The function between the projections.
        init_std: Standard deviation of the truncated normal start of all weights.
    """

    bottleneck: Annotated[int, Field(ge=1)] = 8
    shared: Annotated[int, Field(ge=0)] = 16
    activation: Activation = "quick_gelu"
    init_std: Annotated[float, Field(gt=0)] = 0.01


class CrossModalAdapter(Method[CrossModalAdapterSettings]):
    """Adapters after both sublayers of every block, tied across the towers."""

    starts_as_identity = False

    def setup(self) -> None:
        spec, settings = self.spec, self.settings
        narrower = min(spec.vision_width, spec.text_width)
        if settings.shared >= narrower:
            raise ConfigError(
                "shared leaves no output unshared",
                where=f"methods.{self.name}.shared",
                found=settings.shared,
                expected=f"less than {narrower}",
            )
        depth = max(spec.vision_layers, spec.text_layers) if settings.shared else 0
        self.shared = nn.ModuleList([_Pair(settings, settings.bottleneck, settings.shared) for _ in range(depth)])
        self.video = nn.ModuleList([_Unshared(settings, spec.vision_width) for _ in range(spec.vision_layers)])
        self.text = nn.ModuleList([_Unshared(settings, spec.text_width) for _ in range(spec.text_layers)])

    def vision_hooks(self) -> Hooks:
        return _AfterSublayers(self.video, self.shared, self.settings.activation)

    def text_hooks(self) -> Hooks:
        return _AfterSublayers(self.text, self.shared, self.settings.activation)


def _linear(settings: CrossModalAdapterSettings, inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(linear.weight, std=settings.init_std)
    nn.init.zeros_(linear.bias)
    return linear


class _Pair(nn.Module):
    """A linear map for each of the two places in a layer."""

    def __init__(self, settings: CrossModalAdapterSettings, inputs: int, outputs: int) -> None:
        super().__init__()
        self.attention, self.mlp = _linear(settings, inputs, outputs), _linear(settings, inputs, outputs)

    def at(self, place: str) -> nn.Linear:
        return self.attention if place == "attention" else self.mlp


class _Unshared(nn.Module):
    """The maps that belong to one layer of one tower."""

    def __init__(self, settings: CrossModalAdapterSettings, width: int) -> None:
        super().__init__()
        self.down = _Pair(settings, width, settings.bottleneck)
        self.up = _Pair(settings, settings.bottleneck, width - settings.shared)


class _AfterSublayers(Hooks):
    token_wise = True

    def __init__(self, layers: nn.ModuleList, shared: nn.ModuleList, activation: Activation) -> None:
        self.layers, self.activation = layers, activation
        # The last layers of both towers form a pair.
        self.shared = list(shared)[len(shared) - len(layers) :] if len(shared) else []

    def _added(self, i: int, place: str, a: Tensor, flow: Flow) -> Tensor:
        layer = self.layers[i]
        assert isinstance(layer, _Unshared)
        u = activate(self.activation, layer.down.at(place)(flow.own_tokens(a)))
        parts = [layer.up.at(place)(u)]
        if self.shared:
            shared = self.shared[i]
            assert isinstance(shared, _Pair)
            parts.append(shared.at(place)(u))
        return flow.add_own(a, cat(parts, dim=-1))

    def after_attention(self, i: int, x: Tensor, h: Tensor, a: Tensor, flow: Flow) -> Tensor:
        return self._added(i, "attention", a, flow)

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        return self._added(i, "mlp", m, flow)
