"""VoP: prompts for text and video in the layers of a frozen CLIP (Huang et al., CVPR 2023, arXiv 2211.12764).

Each layer i of either tower gets fresh prompts. The outputs at their places are discarded (section 3.2)::

    text    [ _ , W_i ]      = L^t_i([ P^t_{i-1}, W_{i-1} ])           P^t: float[K_t, P_t, D_t]
    vision  [ c_i, _ , E_i ] = L^v_i([ c_{i-1}, P^v_{i-1}, E_{i-1} ])  P^v: float[K_v, P_v, D_v]

Three enhancements of the vision side combine freely (section 3.3). Each is a setting, and :data:`PRESETS` names the
variants.

P, position-specific (``position_prompts``)
    Some of the P_v prompts belong to a frame number j and are the same for all videos. The others stay generic.
C, context-specific (``context_prompts``)
    Some prompts are made from the video. The class tokens of all frames that enter a layer go through a context module
    (a one-layer BiLSTM) and one linear map, which give prompts per frame. All layers share both.
F, function-specific (``function_specific``)
    After the first K^s layers (``intra_layers``), all frames of a video form one sequence with P_v prompts per video:
    joint space-time attention with the same frozen weights. A trainable embedding of the frame number is added once,
    before layer K^s + 1. The layers before are those of base VoP, P or C.

Text prompts have two layouts:

``text_layout: paper``
    ``[SOS, P^t, words, EOS, padding]``, read out at EOS. The words keep their positions and prompts get none, so
    prompts take no places of the context. The paper does not say where SOS goes.
``text_layout: released``, the authors' inference code
    ``[SOS, prefix, ..., suffix, last column]``. The suffix comes before the last *column*, not before EOS. The first
    layer's prompts get positions, so words + P_t must fit the context. The read-out is at EOS + P_t, which is after EOS
    for a text shorter than ``words``.

Everything else is the same in both layouts. Vision prompts carry no position and pass ``ln_pre`` in the first layer.

The paper takes the plain mean of the frames. The authors' code L2-normalises each frame before the mean, as CLIP4Clip
does. ``normalize_frames`` chooses, and the default is the code's.

P, C and F have no public code. They follow the paper's text, and its printed percentages fix their sizes. Three choices
are not in the text: the first layer's context prompts are made from the output of ``ln_pre`` and inserted there, the
frame embedding starts at zero, and the context module and its linear map keep PyTorch's initialisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.backbones.hooks import Flow, Hooks
from components.config import STRICT
from components.errors import ConfigError
from components.methods.base import Method, TrainedSettings, mean_pool
from components.methods.context import ContextKind, ContextPrompts
from components.methods.parts import chosen_layers
from components.methods.prompts import (
    FreshPrompts,
    LayerPrompts,
    ReleasedText,
    normal_prompts,
    repeated,
)

Prompts = Annotated[int, Field(ge=0, le=256)]
Width = Annotated[int, Field(ge=1)]

# The registered names of the variants and their settings. VoP^P, VoP^C, VoP^F, VoP^{F+P} and
# VoP^{F+C} have the published numbers of prompts: 4 of 8 are specific. VoP^{P+C} and VoP^{F+P+C} are not in the paper.
# They have 2 prompts of each specific kind and 4 generic ones.
PRESETS: dict[str, dict[str, Any]] = {
    "vop_p": {"position_prompts": 4},
    "vop_c": {"context_prompts": 4},
    "vop_f": {"function_specific": True},
    "vop_fp": {"position_prompts": 4, "function_specific": True},
    "vop_fc": {"context_prompts": 4, "function_specific": True},
    "vop_pc": {"position_prompts": 2, "context_prompts": 2},
    "vop_fpc": {"position_prompts": 2, "context_prompts": 2, "function_specific": True},
}


@dataclass(frozen=True, config=STRICT)
class VoPSettings(TrainedSettings):
    """Numbers, kinds and places of prompts.

    Attributes:
        video_prompts: P_v, prompts per layer of the vision tower. 0 means no prompts there.
        text_prompts: P_t, prompts per layer of the text tower. 0 means no prompts there.
        position_prompts: How many of the P_v are position-specific, in layers that see frames one by one.
        context_prompts: How many of the P_v are context-specific, in the same layers.
        function_specific: Whether the last layers attend over all frames of a video.
        intra_layers: K^s, the number of first layers that see frames one by one. None means two thirds of the layers (8
            of 12, as published).
        context_module: The module that reads the class tokens along the frames.
        context_width: Its hidden width, per direction. None means D_v.
        context_depth: The number of its layers. None means 1, or 4 with a transformer (both as published).
        video_layers: Layers of the vision tower with prompts, from 0. None means all.
        text_layers: Layers of the text tower with prompts, from 0. None means all.
        text_layout: The places of text prompts and of the read-out, see the module.
        suffix_prompts: How many of the text prompts come before the last column. Only the released layout has such
            prompts. There, None means half of them (4 of 8 in the release).
        init_std: Standard deviation of the prompts' normal initialisation (the release's).
        normalize_frames: Whether frames are L2-normalised before their mean (the release), or not (the paper).
    """

    video_prompts: Prompts = 8
    text_prompts: Prompts = 8
    position_prompts: Prompts = 0
    context_prompts: Prompts = 0
    function_specific: bool = False
    intra_layers: Annotated[int, Field(ge=0)] | None = None
    context_module: ContextKind = "bilstm"
    context_width: Width | None = None
    context_depth: Width | None = None
    video_layers: tuple[int, ...] | None = None
    text_layers: tuple[int, ...] | None = None
    text_layout: Literal["paper", "released"] = "paper"
    suffix_prompts: Prompts | None = None
    init_std: Annotated[float, Field(gt=0)] = 0.02
    normalize_frames: bool = True

    @classmethod
    def expand(cls, name: str, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The preset of the method's name, with ``raw`` on top."""
        return {**PRESETS.get(name, {}), **raw}

    def __post_init__(self) -> None:
        if self.video_prompts + self.text_prompts == 0 and not self.function_specific:
            raise ValueError("video_prompts and text_prompts are both 0: nothing would train (use zero_shot)")
        if self.position_prompts + self.context_prompts > self.video_prompts:
            raise ValueError("position_prompts and context_prompts are more than video_prompts")
        if self.intra_layers is not None and not self.function_specific:
            raise ValueError("intra_layers needs function_specific: true")
        if self.text_layout == "paper" and self.suffix_prompts:
            raise ValueError("suffix_prompts needs text_layout: released")
        if self.text_layout == "released" and self.text_layers is not None:
            raise ValueError("text_layers needs text_layout: paper (the release has prompts in every layer)")
        if (self.suffix_prompts or 0) > self.text_prompts:
            raise ValueError("suffix_prompts is more than text_prompts")

    @property
    def suffix(self) -> int:
        """The number of prompts before the last column."""
        if self.text_layout == "paper":
            return 0
        return self.text_prompts // 2 if self.suffix_prompts is None else self.suffix_prompts


class VoP(Method[VoPSettings]):
    """Base VoP and, by settings, all its enhancements."""

    starts_as_identity = False

    def setup(self) -> None:
        spec, settings, where = self.spec, self.settings, f"methods.{self.name}"
        std, width = settings.init_std, spec.vision_width
        self._check_context(spec.context_length)
        self.text_layers = chosen_layers(f"{where}.text_layers", settings.text_layers, spec.text_layers)
        self.text_prompts = normal_prompts(len(self.text_layers), settings.text_prompts, spec.text_width, std=std)
        self.intra = self._intra_layers(spec.vision_layers)
        chosen = chosen_layers(f"{where}.video_layers", settings.video_layers, spec.vision_layers)
        self.frame_layers = [i for i in chosen if i < self.intra]
        self.joint_layers = [i for i in chosen if i >= self.intra]
        rows, specific = len(self.frame_layers), settings.position_prompts
        generic = settings.video_prompts - specific - settings.context_prompts
        self.generic_prompts = normal_prompts(rows, generic, width, std=std)
        self.position_prompts = normal_prompts(rows, self.frames, specific, width, std=std)
        self.context = self._context_prompts(width) if settings.context_prompts and rows else None
        self.joint_prompts = normal_prompts(len(self.joint_layers), settings.video_prompts, width, std=std)
        embedding = torch.zeros(self.frames, width)
        self.frame_embedding = nn.Parameter(embedding) if settings.function_specific else None
        self.pools_itself = not settings.normalize_frames
        self.temporal = any(p is not None for p in (self.position_prompts, self.context, self.frame_embedding))

    def _context_prompts(self, width: int) -> ContextPrompts:
        settings = self.settings
        return ContextPrompts(
            width,
            settings.context_prompts,
            self.frames,
            kind=settings.context_module,
            hidden=settings.context_width,
            depth=settings.context_depth,
        )

    def _check_context(self, context_length: int) -> None:
        words, prompts = self.words, self.settings.text_prompts
        if self.settings.text_layout == "released" and words + prompts > context_length:
            raise ConfigError(
                "words and text prompts do not fit the context",
                where=f"methods.{self.name}.text_prompts",
                found=f"{words} words + {prompts} prompts",
                expected=f"at most {context_length}",
                cure="use fewer words or prompts, or text_layout: paper",
            )

    def _intra_layers(self, depth: int) -> int:
        if not self.settings.function_specific:
            return depth
        # Even the smallest tower keeps one joint layer.
        intra = min(depth - 1, -(-2 * depth // 3)) if self.settings.intra_layers is None else self.settings.intra_layers
        if intra >= depth:
            raise ConfigError(
                "no layer is left for all frames together",
                where=f"methods.{self.name}.intra_layers",
                found=intra,
                expected=f"at most {depth - 1}",
                cure="set function_specific: false for base VoP",
            )
        return intra

    def vision_hooks(self) -> Hooks:
        return VideoPrompts(self)

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        return mean_pool(features, mask, normalize=self.settings.normalize_frames)

    def text_hooks(self) -> Hooks:
        if self.text_prompts is None:
            return super().text_hooks()
        if self.settings.text_layout == "paper":
            return LayerPrompts(self.text_prompts, self.text_layers)
        return ReleasedText(self.text_prompts, self.settings.suffix)


class VideoPrompts(FreshPrompts):
    """``[CLS, generic, position, context, patches]`` per frame, then ``[frame 1, ..., frame T, P^v]`` per video."""

    def __init__(self, vop: VoP) -> None:
        self.vop = vop
        self.learned = sum(p.shape[-2] for p in (vop.generic_prompts, vop.position_prompts) if p is not None)
        super().__init__(vop.frame_layers if self.learned or vop.context else ())
        self.row = {layer: row for row, layer in enumerate(vop.frame_layers)}

    def after_positions(self, x: Tensor, flow: Flow) -> Tensor:
        # Context prompts of the first layer need the output of ln_pre, so before_layer inserts them.
        if 0 not in self.layers or not self.learned:
            return x
        return flow.exchange(x, self, self._learned(0, x.shape[0], flow))

    def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        if i >= self.vop.intra:
            return self._before_joint(i, x, flow)
        if i > 0:
            return self.exchange(i, x, flow)
        context = self.vop.context if i in self.layers else None
        return x if context is None else flow.exchange(x, self, context(flow.first_tokens(x), flow), keep=self.learned)

    def fresh(self, i: int, first: Tensor, flow: Flow) -> Tensor:
        learned = [self._learned(i, first.shape[0], flow)] if self.learned else []
        made = [] if self.vop.context is None else [self.vop.context(first, flow)]
        return torch.cat([part.to(first.dtype) for part in (*learned, *made)], dim=1)

    def _learned(self, i: int, frames: int, flow: Flow) -> Tensor:
        """Generic and position-specific prompts of layer ``i`` for all frames: ``float[frames, P, D]``."""
        vop, parts = self.vop, []
        if vop.generic_prompts is not None:
            parts.append(repeated(vop.generic_prompts[self.row[i]], frames))
        if vop.position_prompts is not None:
            of_frames = vop.position_prompts[self.row[i], : flow.frames]
            parts.append(of_frames.repeat(frames // flow.frames, 1, 1))
        return torch.cat(parts, dim=1)

    def _before_joint(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        vop = self.vop
        if i == vop.intra:
            assert vop.frame_embedding is not None, "joint layers come with a frame embedding"
            x = flow.exchange(x, self, None)
            tokens = flow.own_tokens(x)
            of_frames = vop.frame_embedding[: flow.frames].repeat(tokens.shape[0] // flow.frames, 1)
            x = flow.join(flow.add_own(x, of_frames.unsqueeze(1).to(x.dtype).expand_as(tokens)))
        prompts = vop.joint_prompts if i in vop.joint_layers else None
        fresh = None if prompts is None else repeated(prompts[vop.joint_layers.index(i)], x.shape[0])
        return flow.exchange_tail(x, self, fresh)
