"""Cross-Modal Adapter: bottlenecks whose way up is partly shared by both modalities (Jiang et al., arXiv 2211.09623).

Behind attention and behind the MLP of every layer, ``a + act(a W_down) [W_up, W_up^cm]``: the last ``shared`` outputs
come from a matrix that the same layer of both towers shares (towers of different depth are paired from their last
layers back). With the authors' defaults (bottleneck 8, 16 shared, QuickGELU) 519,168 scalars in ViT-B/32. Weights start
from a truncated normal distribution and not from zero, so the start is near CLIP but not CLIP itself.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, cat, nn

from components import config
from components.backbones.clip import Backbone
from components.backbones.towers import Flow, Hooks
from components.errors import ConfigError
from components.methods.base import Method, MethodSettings, TrainedSettings
from components.methods.parts import Activation, activate


@dataclass(frozen=True, config=config.STRICT)
class CrossModalAdapterSettings(TrainedSettings):
    """Sizes of the adapters.

    Attributes:
        bottleneck: r, hidden width.
        shared: d_s, outputs whose weights both towers share.
        activation: between the projections.
        init_std: of the truncated normal start of all weights.
    """

    bottleneck: Annotated[int, Field(ge=1)] = 8
    shared: Annotated[int, Field(ge=0)] = 16
    activation: Activation = "quick_gelu"
    init_std: Annotated[float, Field(gt=0)] = 0.01


class CrossModalAdapter(Method):
    """Adapters behind both sublayers of every block, tied across the towers."""

    name: ClassVar[str] = "cm_adapter"
    Settings: ClassVar[type[MethodSettings]] = CrossModalAdapterSettings
    starts_as_identity = False

    def __init__(self, backbone: Backbone, settings: CrossModalAdapterSettings, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        spec = backbone.spec
        if settings.shared >= min(spec.vision_width, spec.text_width):
            raise ConfigError(
                "nothing of the way up would be a tower's own",
                where="methods.cm_adapter.shared",
                found=settings.shared,
                expected=f"less than {min(spec.vision_width, spec.text_width)}",
            )
        depth = max(spec.vision_layers, spec.text_layers) if settings.shared else 0
        self.shared = nn.ModuleList([_Pair(settings, settings.bottleneck, settings.shared) for _ in range(depth)])
        self.video = nn.ModuleList([_Own(settings, spec.vision_width) for _ in range(spec.vision_layers)])
        self.text = nn.ModuleList([_Own(settings, spec.text_width) for _ in range(spec.text_layers)])

    def vision_hooks(self) -> Hooks:
        return _Behind(self.video, self.shared, self.settings.activation)

    def text_hooks(self) -> Hooks:
        return _Behind(self.text, self.shared, self.settings.activation)


def _linear(settings: CrossModalAdapterSettings, wide: int, out: int) -> nn.Linear:
    linear = nn.Linear(wide, out)
    nn.init.trunc_normal_(linear.weight, std=settings.init_std)
    nn.init.zeros_(linear.bias)
    return linear


class _Pair(nn.Module):
    """A linear map for each of the two places in a layer."""

    def __init__(self, settings: CrossModalAdapterSettings, wide: int, out: int) -> None:
        super().__init__()
        self.attention, self.mlp = _linear(settings, wide, out), _linear(settings, wide, out)

    def at(self, place: str) -> nn.Linear:
        return self.attention if place == "attention" else self.mlp


class _Own(nn.Module):
    """What a layer of one tower has for itself."""

    def __init__(self, settings: CrossModalAdapterSettings, width: int) -> None:
        super().__init__()
        self.down = _Pair(settings, width, settings.bottleneck)
        self.up = _Pair(settings, settings.bottleneck, width - settings.shared)


class _Behind(Hooks):
    def __init__(self, own: nn.ModuleList, shared: nn.ModuleList, activation: Activation) -> None:
        self.own, self.activation = own, activation
        # The last layers of both towers are partners.
        self.shared = list(shared)[len(shared) - len(own) :] if len(shared) else []

    def _added(self, i: int, place: str, a: Tensor, flow: Flow) -> Tensor:
        own = self.own[i]
        assert isinstance(own, _Own)
        u = activate(self.activation, own.down.at(place)(flow.own_tokens(a)))
        parts = [own.up.at(place)(u)]
        if self.shared:
            shared = self.shared[i]
            assert isinstance(shared, _Pair)
            parts.append(shared.at(place)(u))
        return flow.add_own(a, cat(parts, dim=-1))

    def after_attention(self, i: int, x: Tensor, h: Tensor, a: Tensor, flow: Flow) -> Tensor:
        return self._added(i, "attention", a, flow)

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        return self._added(i, "mlp", m, flow)
