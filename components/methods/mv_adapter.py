"""MV-Adapter: a bottleneck with a small transformer behind every MLP of a frozen CLIP (CVPR 2024, arXiv 2301.07868).

With h the output of an MLP, a layer becomes ``x + h + s * A(h)``, in the text tower (section 3.2, equation 1) with
``A(h) = TRM(h W_down) W_up`` and in the vision tower with temporal adaptation (section 3.3):

1. ``u = act(h W_down)`` for all tokens; per frame, the class token and the mean of the patches are kept.
2. ``[CC, class_1..class_T, patch_1..patch_T]`` plus positions goes through a layer norm and TRM over the whole video;
   the keys of padding frames are masked. CC is a learned token that gathers the video's global context.
3. Calibration: ``alpha_t = 1 + FC2(ReLU(FC1([class'_t + patch'_t ; g(CC')])))``, in effect a W_up of its own per frame.
4. Class tokens leave as ``(alpha_t * class'_t) W_up``, patches as ``u W_up`` without temporal mixing.

Cross-modality tying (section 3.4): in the last layers one shared factor f per layer, through a projection per tower,
multiplies W_down or W_up, along its input or its output side. W_up starts at zero, so the method starts as CLIP itself.

The paper leaves parts open that the released code fills, and its printed parameter shares count the latter; the
default, ``form: released``, is that code's arithmetic. ``form: paper`` differs from it in three places:

=======================================  ==============================  ===================================
place                                    released                        paper (Algorithm 1)
=======================================  ==============================  ===================================
activation behind W_down, vision         class tokens and patches        patches, for their own way up only
activation behind TRM                    QuickGELU                       none
calibration                              1 + FC2(...), FC2 starts at 0   FC2(...), FC2 starts at random
=======================================  ==============================  ===================================

Positions and g exist in both forms: the printed shares contain them, and without positions the order of the frames
would be invisible. Position rows belong to frame numbers (row 0 CC, then ``frames`` class rows, then ``frames`` patch
rows), so more padding changes nothing. CLIP's biases, which the release also trains, stay frozen.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from components import config
from components.backbones.clip import Backbone
from components.backbones.towers import Flow, Hooks, quick_gelu
from components.errors import ConfigError
from components.methods.base import Method, MethodSettings, TrainedSettings

Tie = Literal["down_in", "down_out", "up_in", "up_out", "down_in_class", "down_out_class"]
Width = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=config.STRICT)
class MVAdapterSettings(TrainedSettings):
    """Sizes and forms; the defaults are the paper's for ViT-B.

    Attributes:
        bottleneck: d', width of the bottleneck in the vision tower, and in the text tower unless ``text_bottleneck``.
        scale: s, factor on the adapter's output.
        factor: d_m, size of the factor that both towers share in a tied layer.
        tied_layers: number of last layers, counted from the end of each tower, that are tied; 0 for none.
        tie: which side of which matrix the tie scales. ``down_*_class`` ties the vision tower's class tokens alone.
            Ties on W_up touch class tokens only; biases are never scaled.
        factor_bias_init: start of the bias of the projection of the shared factor, in effect the tie's start, since the
            factor starts at zero; "default" is the release's (uniform in +-1/sqrt(factor)).
        heads: attention heads of TRM.
        form: the released code's arithmetic or the paper's, see the module.
        cc: whether the CC token takes part.
        calibrate: which tokens are calibrated.
        calibration_width: width between FC1 and FC2.
        input_norm: whether a layer norm stands before W_down.
        text_bottleneck: width of the bottleneck in the text tower, if another one.
        vision_layers: layers with an adapter, counted from 0; None for all.
        text_layers: the same of the text tower.
    """

    bottleneck: Width = 64
    scale: float = 0.1
    factor: Width = 32
    tied_layers: Annotated[int, Field(ge=0)] = 2
    tie: Tie = "down_in"
    factor_bias_init: Literal["default"] | float = "default"
    heads: Width = 2
    form: Literal["released", "paper"] = "released"
    cc: bool = True
    calibrate: tuple[Literal["class", "patch"], ...] = ("class",)
    calibration_width: Width = 16
    input_norm: bool = False
    text_bottleneck: Width | None = None
    vision_layers: tuple[int, ...] | None = None
    text_layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for field, width in (("bottleneck", self.bottleneck), ("text_bottleneck", self.text_bottleneck or self.heads)):
            if width % self.heads:
                raise ValueError(f"{field} ({width}) is not a multiple of heads ({self.heads})")


class MVAdapter(Method):
    """Adapters in both towers and the factors that tie them."""

    name: ClassVar[str] = "mv_adapter"
    Settings: ClassVar[type[MethodSettings]] = MVAdapterSettings
    temporal: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, settings: MVAdapterSettings, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        spec = backbone.spec
        vision = _chosen("vision_layers", settings.vision_layers, spec.vision_layers)
        text = _chosen("text_layers", settings.text_layers, spec.text_layers)
        # Tied layer number k, from the last one back: the same k in both towers shares a factor.
        tied = {
            side: {depth - 1 - k: k for k in range(settings.tied_layers)}
            for side, depth in (("vision", spec.vision_layers), ("text", spec.text_layers))
        }
        if not (set(tied["vision"]) <= set(vision) and set(tied["text"]) <= set(text)):
            raise ConfigError(
                "tied layers have no adapter",
                where="methods.mv_adapter.tied_layers",
                found=settings.tied_layers,
                expected=f"the last layers to be among vision_layers {vision} and text_layers {text}",
            )
        self.factors = nn.ParameterList([nn.Parameter(torch.zeros(settings.factor)) for _ in tied["vision"]])
        self.video = nn.ModuleDict(
            {str(i): VideoAdapter(spec.vision_width, settings, frames, tied=i in tied["vision"]) for i in vision}
        )
        text_tied = set() if settings.tie.endswith("_class") else set(tied["text"])
        self.text = nn.ModuleDict(
            {str(i): TextAdapter(spec.text_width, settings, words, tied=i in text_tied) for i in text}
        )
        self._tied = tied

    def vision_hooks(self) -> Hooks:
        return _AdapterHooks(self.video, self._factors("vision"))

    def text_hooks(self) -> Hooks:
        return _AdapterHooks(self.text, self._factors("text"))

    def _factors(self, side: str) -> dict[int, Tensor]:
        return {i: self.factors[k] for i, k in self._tied[side].items()}


def _chosen(field: str, layers: tuple[int, ...] | None, depth: int) -> list[int]:
    chosen = sorted(set(range(depth) if layers is None else layers))
    if any(not 0 <= i < depth for i in chosen):
        raise ConfigError(
            "layer index out of range", where=f"methods.mv_adapter.{field}", found=chosen, expected=f"0 to {depth - 1}"
        )
    return chosen


class _AdapterHooks(Hooks):
    """Adds an adapter's output to the MLP's in the layers that have one."""

    # The temporal block reads the patches, and the causal block the tokens before the end, of the last layer too.
    whole_last_layer = True

    def __init__(self, adapters: nn.ModuleDict, factors: dict[int, Tensor]) -> None:
        self.adapters = {int(name): module for name, module in adapters.items()}
        self.factors = factors

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        if i not in self.adapters:
            return m
        if flow.own is None:
            return m + self.adapters[i](m, flow, self.factors.get(i))
        # Another method's prompts stand in the sequence; they get no adapter.
        return m.index_add(1, flow.own, self.adapters[i](m[:, flow.own], flow, self.factors.get(i)).to(m.dtype))


class Adapter(nn.Module):
    """What both towers' adapters share: the two projections, the positions, TRM and the tie.

    Args:
        width: D, of the tower.
        bottleneck: d'.
        rows: position rows.
        tied: whether a shared factor scales a matrix here.
        class_only: whether the tie leaves other tokens than the class token alone.
    """

    def __init__(self, width: int, bottleneck: int, rows: int, settings: MVAdapterSettings, tied: bool) -> None:
        super().__init__()
        self.settings = settings
        self.input_norm = nn.LayerNorm(width) if settings.input_norm else nn.Identity()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.positions = nn.Parameter(torch.randn(rows, bottleneck) * 0.01)
        self.norm = nn.LayerNorm(bottleneck)
        self.block = Block(bottleneck, settings.heads, outer=width)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)
        wide = settings.tie.startswith("down_in") or settings.tie == "up_out"
        self.tie = nn.Linear(settings.factor, width if wide else bottleneck) if tied else None
        if self.tie is not None and settings.factor_bias_init != "default":
            nn.init.constant_(self.tie.bias, settings.factor_bias_init)

    def tied_weights(self, factor: Tensor | None) -> tuple[Tensor, Tensor]:
        """``W_down float[d', D]`` and ``W_up float[D, d']`` as the tie with the shared factor leaves them."""
        down, up = self.down.weight, self.up.weight
        if self.tie is None or factor is None:
            return down, up
        beta, tie = self.tie(factor), self.settings.tie
        if tie.startswith("down_in"):
            return down * beta, up
        if tie.startswith("down_out"):
            return down * beta[:, None], up
        return down, up * (beta if tie == "up_in" else beta[:, None])


class TextAdapter(Adapter):
    """``s * TRM(h W_down + positions) W_up`` over the tokens of a text, causal."""

    def __init__(self, width: int, settings: MVAdapterSettings, words: int, *, tied: bool) -> None:
        super().__init__(width, settings.text_bottleneck or settings.bottleneck, words, settings, tied)
        nn.init.normal_(self.down.weight, std=(2 * width) ** -0.5)

    def forward(self, h: Tensor, flow: Flow, factor: Tensor | None) -> Tensor:
        """What is added: ``float[B, L, D] -> float[B, L, D]``."""
        down, up = self.tied_weights(factor)
        s = F.linear(self.input_norm(h), down, self.down.bias) + self.positions[: h.shape[1]]
        s = self.block(self.norm(s), causal=True)
        s = quick_gelu(s) if self.settings.form == "released" else s
        return F.linear(s, up * self.settings.scale, self.up.bias * self.settings.scale)


class VideoAdapter(Adapter):
    """Temporal adaptation, steps 1 to 4 of the module."""

    def __init__(self, width: int, settings: MVAdapterSettings, frames: int, *, tied: bool) -> None:
        super().__init__(width, settings.bottleneck, 2 * frames + settings.cc, settings, tied)
        self.frames = frames
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        d = settings.bottleneck
        self.cc = nn.Parameter(torch.randn(d) * d**-0.5) if settings.cc else None
        self.calibration = nn.ModuleDict({kind: Calibration(settings) for kind in sorted(set(settings.calibrate))})

    def forward(self, h: Tensor, flow: Flow, factor: Tensor | None) -> Tensor:
        """What is added: ``float[B*T, 1+N, D] -> float[B*T, 1+N, D]``."""
        assert flow.mask is not None, "the vision tower passes the frame mask"
        down, up = self.tied_weights(factor)
        raw, u = self._down(self.input_norm(h), down)
        videos, length = flow.mask.shape
        first = raw[:, 0].view(videos, length, -1)
        patches = raw[:, 1:].mean(dim=1).view(videos, length, -1)
        cc, classes, patch_context = self._mix(first, patches, flow.mask)
        context = classes + patch_context
        if "class" in self.calibration:
            classes = classes * self.calibration["class"](context, cc)
        u = u[:, 1:]
        if "patch" in self.calibration:
            u = u * self.calibration["patch"](context, cc).flatten(0, 1).unsqueeze(1)
        classes = classes.reshape(videos * length, 1, -1)
        scale, bias = self.settings.scale, self.up.bias * self.settings.scale
        if up is self.up.weight:
            return F.linear(torch.cat([classes, u], dim=1), up * scale, bias)
        return torch.cat([F.linear(classes, up * scale, bias), F.linear(u, self.up.weight * scale, bias)], dim=1)

    def _down(self, h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The bottleneck as the temporal block reads it and as patches go up: both ``float[B*T, 1+N, d']``."""
        if self.settings.tie.endswith("_class") and weight is not self.down.weight:
            first = F.linear(h[:, :1], weight, self.down.bias)
            raw = torch.cat([first, F.linear(h[:, 1:], self.down.weight, self.down.bias)], dim=1)
        else:
            raw = F.linear(h, weight, self.down.bias)
        active = quick_gelu(raw)
        return (active, active) if self.settings.form == "released" else (raw, active)

    def _mix(self, first: Tensor, patches: Tensor, mask: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """TRM over ``[CC, class tokens, patches]``: the outputs ``[B, d']``, ``[B, T, d']`` and ``[B, T, d']``."""
        videos, length, _ = first.shape
        start = 0 if self.cc is None else 1
        rows = self.positions[start:]
        s = [first + rows[:length], patches + rows[self.frames : self.frames + length]]
        keys = [mask, mask]
        if self.cc is not None:
            s.insert(0, (self.cc + self.positions[0]).expand(videos, 1, -1))
            keys.insert(0, mask.new_ones(videos, 1))
        x = self.block(self.norm(torch.cat(s, dim=1)), keys=torch.cat(keys, dim=1))
        x = quick_gelu(x) if self.settings.form == "released" else x
        middle = start + length
        return (None if self.cc is None else x[:, 0]), x[:, start:middle], x[:, middle:]


class Calibration(nn.Module):
    """Factors on the bottleneck per frame, from the frame's local and the video's global context (equation 2)."""

    def __init__(self, settings: MVAdapterSettings) -> None:
        super().__init__()
        d = settings.bottleneck
        self.offset = 1.0 if settings.form == "released" else 0.0
        self.g = nn.Linear(d, d) if settings.cc else None
        self.fc1 = nn.Linear(2 * d if settings.cc else d, settings.calibration_width)
        self.fc2 = nn.Linear(settings.calibration_width, d, bias=False)
        if settings.form == "released":
            nn.init.zeros_(self.fc2.weight)

    def forward(self, context: Tensor, cc: Tensor | None) -> Tensor:
        """``float[B, T, d'], float[B, d'] -> float[B, T, d']``."""
        if self.g is not None and cc is not None:
            context = torch.cat([context, self.g(cc).unsqueeze(1).expand_as(context)], dim=-1)
        return self.offset + self.fc2(F.relu(self.fc1(context)))


class Block(nn.Module):
    """TRM: a pre-norm transformer block with QuickGELU in the bottleneck.

    Args:
        width: d'.
        heads: attention heads.
        outer: width of the tower, from which the release takes the standard deviations of the initialisation.
    """

    def __init__(self, width: int, heads: int, outer: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        nn.init.normal_(self.qkv.weight, std=outer**-0.5)
        for linear in (self.out, self.fc1, self.fc2):
            nn.init.normal_(linear.weight, std=(2 * outer) ** -0.5)
        for linear in (self.qkv, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, keys: Tensor | None = None, causal: bool = False) -> Tensor:
        """``float[B, L, d'] -> float[B, L, d']``; ``keys: bool[B, L]`` says which tokens may be attended to."""
        videos, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(videos, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if keys is None else keys[:, None, None]
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        x = x + self.out(o.transpose(1, 2).reshape(videos, length, width))
        return x + self.fc2(quick_gelu(self.fc1(self.norm2(x))))
