"""MV-Adapter: a bottleneck with a small transformer after every MLP of a frozen CLIP (CVPR 2024, arXiv 2301.07868).

Let h be the output of an MLP. A layer becomes ``x + h + s * A(h)``. In the text tower (section 3.2, equation 1),
``A(h) = TRM(h W_down) W_up``. In the vision tower, A is temporal adaptation (section 3.3):

1. ``u = act(h W_down)`` for all tokens. Each frame keeps the class token and the mean of the patches.
2. ``[CC, class_1..class_T, patch_1..patch_T]`` plus positions goes through a layer norm and TRM over the whole video.
   The keys of padding frames are masked. CC is a learned token that gathers the video's global context.
3. Calibration: ``alpha_t = 1 + FC2(ReLU(FC1([class'_t + patch'_t ; g(CC')])))``. In effect, W_up differs per frame.
4. Class tokens leave as ``(alpha_t * class'_t) W_up``, patches as ``u W_up`` without temporal mixing.

Cross-modality tying (section 3.4): in chosen layers, a shared factor f per layer goes through a projection per tower.
The result multiplies W_down or W_up along its input or output side. W_up starts at zero, so the method starts as CLIP.

Each difference between the paper and the released code has a switch (:mod:`components.methods.mv_settings`). ``form``
sets the switches that change the arithmetic:

==================================  =======================  ==============================  ======================
place                               setting                  ``form: released``              ``form: paper``
==================================  =======================  ==============================  ======================
after W_down, vision                ``down_activation``      class tokens and patches        only patches to W_up
after TRM                           ``block_activation``     QuickGELU                       none
calibration                         ``calibration_start``    1 + FC2(...), FC2 at zero       FC2(...), at random
frames before their mean            ``normalize_frames``     L2-normalised                   as they are
positions and norm before TRM       ``positions``            yes                             yes (not in Algorithm 1)
CC before calibration               ``cc_map``               linear map g                    g (not in equation 2)
projection of the shared factor     ``tie_bias``             with bias                       with bias (text: matrix)
TRM of the text tower               ``text_attention``       causal                          causal (not stated)
pooling of patches                  ``patch_pooling``        mean (code default: PCA)        mean
adapter's place                     ``placement``            ``seq``                         ``seq``
CLIP's biases                       ``train_biases``         in presets, at 1e-7             frozen
tie, its layers, input norm         presets                  by benchmark                    down-in, by benchmark
==================================  =======================  ==============================  ======================

The paper's printed parameter ratios contain positions, g and the tie's biases, so its form keeps them. Without
positions, the order of frames would be invisible. Position rows belong to frame numbers: row 0 for CC, then ``frames``
class rows, then ``frames`` patch rows. More padding therefore changes nothing. The release draws a random PCA. Here it
is exact.

In a tower without a class token (SigLIP), the pooled patches of a frame stand for it in step 2. What leaves in its
place in step 4 is added to every patch of the frame, where attention pooling reads it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.hooks import Flow, Hooks
from components.backbones.towers import quick_gelu
from components.errors import ConfigError
from components.methods.base import Method, mean_pool
from components.methods.mv_settings import MVAdapterSettings
from components.methods.parts import Block, chosen_layers
from components.methods.principal import first_principal_axis


class MVAdapter(Method[MVAdapterSettings]):
    """Adapters in both towers and the factors that tie them."""

    def setup(self) -> None:
        spec, settings, where = self.spec, self.settings, f"methods.{self.name}"
        self.starts_as_identity = bool(settings.normalize_frames)
        self.pools_itself = not settings.normalize_frames
        # Without positions TRM cannot tell the frames apart.
        self.temporal = settings.positions
        vision = chosen_layers(f"{where}.vision_layers", settings.vision_layers, spec.vision_layers)
        text = chosen_layers(f"{where}.text_layers", settings.text_layers, spec.text_layers)
        tied = _tied_layers(f"{where}.tied_layers", settings.tied_layers, spec.vision_layers, spec.text_layers)
        self._tied = {"vision": tied_to(tied, spec.vision_layers), "text": tied_to(tied, spec.text_layers)}
        if not (set(self._tied["vision"]) <= set(vision) and set(self._tied["text"]) <= set(text)):
            raise ConfigError(
                "tied layers have no adapter",
                where=f"{where}.tied_layers",
                found=settings.tied_layers,
                expected=f"layers among vision_layers {vision} and text_layers {text}",
            )
        if settings.tie.endswith("_class") and tied and not spec.class_token:
            raise ConfigError(
                "the tie acts on class tokens, and the tower has none",
                where=f"{where}.tie",
                found=settings.tie,
                expected=f"another tie on {spec.model}",
            )
        start = torch.zeros if settings.tie_bias else torch.randn
        self.factors = nn.ParameterList([nn.Parameter(start(settings.factor)) for _ in tied])
        width, vision_tied = spec.vision_width, set(self._tied["vision"])
        self.video = nn.ModuleDict(
            {str(i): VideoAdapter(width, settings, self.frames, tied=i in vision_tied) for i in vision}
        )
        text_tied = set() if settings.tie.endswith("_class") else set(self._tied["text"])
        self.text = nn.ModuleDict(
            {str(i): TextAdapter(spec.text_width, settings, self.words, tied=i in text_tied) for i in text}
        )

    def vision_hooks(self) -> Hooks:
        return _AdapterHooks(self.video, self._factors("vision"), self.settings.placement)

    def text_hooks(self) -> Hooks:
        return _AdapterHooks(self.text, self._factors("text"), self.settings.placement)

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        return mean_pool(features, mask, normalize=bool(self.settings.normalize_frames))

    def _factors(self, side: str) -> dict[int, Tensor]:
        return {i: self.factors[k] for i, k in self._tied[side].items()}


def _tied_layers(where: str, wanted: int | tuple[int, ...], vision: int, text: int) -> list[int]:
    """Tied layers as steps back from the last layer (0), ascending. The same step in both towers shares a factor."""
    if isinstance(wanted, int):
        steps = list(range(wanted))
    else:
        if vision != text and any(i >= 0 for i in wanted):
            raise ConfigError(
                "towers of different depth cannot be paired by layer number",
                where=where,
                found=list(wanted),
                expected=f"negative numbers from the end ({vision} vision and {text} text layers)",
            )
        steps = sorted({-1 - i if i < 0 else vision - 1 - i for i in wanted})
    if any(not 0 <= k < min(vision, text) for k in steps):
        raise ConfigError(
            "layer index out of range",
            where=where,
            found=wanted if isinstance(wanted, int) else list(wanted),
            expected=f"at most {min(vision, text)} layers, 0 to {min(vision, text) - 1}",
        )
    return steps


def tied_to(steps: list[int], depth: int) -> dict[int, int]:
    """The row of the shared factor, by layer of a tower."""
    return {depth - 1 - k: row for row, k in enumerate(steps)}


class _AdapterHooks(Hooks):
    """Adds an adapter's output to the MLP's in layers that have an adapter. Prompts of another method get nothing."""

    # In the last layer too, the temporal block reads the patches and the causal block the tokens before the end.
    whole_last_layer = True

    def __init__(self, adapters: nn.ModuleDict, factors: dict[int, Tensor], placement: str) -> None:
        self.adapters = {int(name): module for name, module in adapters.items()}
        self.factors, self.placement = factors, placement

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        if i not in self.adapters:
            return m
        source = {"seq": m, "par": x, "ln_par": h}[self.placement]
        return flow.add_own(m, self.adapters[i](flow.own_tokens(source), flow, self.factors.get(i)))


class Adapter(nn.Module):
    """The common part of both towers' adapters: the two projections, the positions, TRM and the tie.

    Args:
        width: D, the tower's width.
        bottleneck: d'.
        rows: The number of position rows.
        settings: The method's settings.
        tied: Whether a shared factor scales a matrix here.
    """

    def __init__(self, width: int, bottleneck: int, rows: int, settings: MVAdapterSettings, tied: bool) -> None:
        super().__init__()
        self.settings = settings
        self.input_norm = nn.LayerNorm(width) if settings.input_norm else nn.Identity()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.positions = nn.Parameter(torch.randn(rows, bottleneck) * 0.01) if settings.positions else None
        self.norm = nn.LayerNorm(bottleneck) if settings.positions else nn.Identity()
        self.block = Block(bottleneck, settings.heads, outer=width)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)
        wide = settings.tie.startswith("down_in") or settings.tie == "up_out"
        side = width if wide else bottleneck
        self.tie = nn.Linear(settings.factor, side, bias=settings.tie_bias) if tied else None
        if self.tie is not None and settings.factor_bias_init != "default":
            nn.init.constant_(self.tie.bias, settings.factor_bias_init)

    def tied_weights(self, factor: Tensor | None) -> tuple[Tensor, Tensor]:
        """``W_down float[d', D]`` and ``W_up float[D, d']``, scaled by the tie with the shared factor."""
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
    """``s * TRM(h W_down + positions) W_up`` over the tokens of a text."""

    def __init__(self, width: int, settings: MVAdapterSettings, words: int, *, tied: bool) -> None:
        super().__init__(width, settings.text_bottleneck or settings.bottleneck, words, settings, tied)
        nn.init.normal_(self.down.weight, std=(2 * width) ** -0.5)

    def forward(self, h: Tensor, flow: Flow, factor: Tensor | None) -> Tensor:
        """What is added to the MLP's output: ``float[B, L, D] -> float[B, L, D]``."""
        down, up = self.tied_weights(factor)
        s = F.linear(self.input_norm(h), down, self.down.bias)
        s = s if self.positions is None else s + self.positions[: h.shape[1]]
        full = self.settings.text_attention == "full"
        s = self.block(self.norm(s), keys=_up_to_the_end(s, flow) if full else None, causal=not full)
        s = quick_gelu(s) if self.settings.block_activation else s
        return F.linear(s, up * self.settings.scale, self.up.bias * self.settings.scale)


def _up_to_the_end(s: Tensor, flow: Flow) -> Tensor:
    """``bool[B, L]``: which of CLIP's tokens come no later than the token that is read out."""
    assert flow.readout is not None, "the text tower passes the column of the end token"
    columns = torch.arange(s.shape[1], device=s.device) if flow.own is None else flow.own
    return columns <= flow.readout[:, None]


class VideoAdapter(Adapter):
    """Temporal adaptation, steps 1 to 4 in the module's docstring."""

    def __init__(self, width: int, settings: MVAdapterSettings, frames: int, *, tied: bool) -> None:
        super().__init__(width, settings.bottleneck, 2 * frames + settings.cc, settings, tied)
        self.frames = frames
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        d = settings.bottleneck
        self.cc = nn.Parameter(torch.randn(d) * d**-0.5) if settings.cc else None
        self.calibration = nn.ModuleDict({kind: Calibration(settings) for kind in sorted(set(settings.calibrate))})

    def forward(self, h: Tensor, flow: Flow, factor: Tensor | None) -> Tensor:
        """What is added to the MLP's output: ``float[B*T, prefix+N, D] -> float[B*T, prefix+N, D]``."""
        assert flow.mask is not None, "the vision tower passes the frame mask"
        down, up = self.tied_weights(factor)
        raw, u = self._down(self.input_norm(h), down)
        videos, length = flow.mask.shape
        patches = self._pooled(raw[:, flow.prefix :]).view(videos, length, -1)
        first = raw[:, 0].view(videos, length, -1) if flow.prefix else patches
        cc, classes, patch_context = self._mix(first, patches, flow.mask)
        context = classes + patch_context
        if "class" in self.calibration:
            classes = classes * self.calibration["class"](context, cc, flow.mask)
        u = u[:, flow.prefix :]
        if "patch" in self.calibration:
            u = u * self.calibration["patch"](context, cc, flow.mask).flatten(0, 1).unsqueeze(1)
        classes = classes.reshape(videos * length, 1, -1)
        scale, bias = self.settings.scale, self.up.bias * self.settings.scale
        if not flow.prefix:
            return F.linear(u, self.up.weight * scale, bias) + F.linear(classes, up * scale)
        if up is self.up.weight:
            return F.linear(torch.cat([classes, u], dim=1), up * scale, bias)
        return torch.cat([F.linear(classes, up * scale, bias), F.linear(u, self.up.weight * scale, bias)], dim=1)

    def _down(self, h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The bottleneck for the temporal block and the bottleneck for W_up: both ``float[B*T, 1+N, d']``."""
        if self.settings.tie.endswith("_class") and weight is not self.down.weight:
            first = F.linear(h[:, :1], weight, self.down.bias)
            raw = torch.cat([first, F.linear(h[:, 1:], self.down.weight, self.down.bias)], dim=1)
        else:
            raw = F.linear(h, weight, self.down.bias)
        active = quick_gelu(raw)
        return (active, active) if self.settings.down_activation == "all" else (raw, active)

    def _pooled(self, patches: Tensor) -> Tensor:
        """One vector for the patches of a frame: ``float[n, N, d'] -> float[n, d']``."""
        if self.settings.patch_pooling == "mean":
            return patches.mean(dim=1)
        axis = first_principal_axis(patches.transpose(1, 2))
        return torch.einsum("npd,np->nd", patches, axis.to(patches.dtype))

    def _mix(self, first: Tensor, patches: Tensor, mask: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """TRM over ``[CC, class tokens, patches]``. The outputs are ``[B, d']``, ``[B, T, d']`` and ``[B, T, d']``."""
        videos, length, _ = first.shape
        start = 0 if self.cc is None else 1
        s, keys = [first, patches], [mask, mask]
        if self.positions is not None:
            rows = self.positions[start:]
            s = [first + rows[:length], patches + rows[self.frames : self.frames + length]]
        if self.cc is not None:
            cc = self.cc if self.positions is None else self.cc + self.positions[0]
            s.insert(0, cc.expand(videos, 1, -1).to(first.dtype))
            keys.insert(0, mask.new_ones(videos, 1))
        x = self.block(self.norm(torch.cat(s, dim=1)), keys=torch.cat(keys, dim=1))
        x = quick_gelu(x) if self.settings.block_activation else x
        middle = start + length
        return (None if self.cc is None else x[:, 0]), x[:, start:middle], x[:, middle:]


class Calibration(nn.Module):
    """Factors on each frame's bottleneck, from the frame's local and the video's global context (equation 2)."""

    def __init__(self, settings: MVAdapterSettings) -> None:
        super().__init__()
        d, identity = settings.bottleneck, settings.calibration_start == "identity"
        self.offset = 1.0 if identity else 0.0
        self.g = nn.Linear(d, d) if settings.cc and settings.cc_map else None
        self.fc1 = nn.Linear(2 * d if settings.cc else d, settings.calibration_width)
        self.fc2 = nn.Linear(settings.calibration_width, d, bias=False)
        if identity:
            nn.init.zeros_(self.fc2.weight)

    def forward(self, context: Tensor, cc: Tensor | None, mask: Tensor) -> Tensor:
        """``float[B, T, d'], float[B, d'], bool[B, T] -> float[B, T, d']``. For padding frames, FC1 reads zeros."""
        if cc is not None:
            cc = cc if self.g is None else self.g(cc)
            context = torch.cat([context, cc.unsqueeze(1).expand_as(context)], dim=-1)
        context = context * mask.unsqueeze(-1)
        return self.offset + self.fc2(F.relu(self.fc1(context)))
