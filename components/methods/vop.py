"""VoP: prompts for text and video in the layers of a frozen CLIP (Huang et al., CVPR 2023, arXiv 2211.12764).

Each layer i of either tower gets fresh prompts, and what comes out at their places is thrown away (section 3.2)::

    text    [ _ , W_i ]      = L^t_i([ P^t_{i-1}, W_{i-1} ])           P^t: float[K_t, P_t, D_t]
    vision  [ c_i, _ , E_i ] = L^v_i([ c_{i-1}, P^v_{i-1}, E_{i-1} ])  P^v: float[K_v, P_v, D_v]

Three enhancements of the vision side, one setting each, which combine freely (section 3.3; names in
:data:`PRESETS`):

P, position-specific (``position_prompts``)
    some of the P_v prompts belong to the number j of a frame, the same for all videos; the others stay generic.
C, context-specific (``context_prompts``)
    some are made from the video at hand: the class tokens of all frames that enter a layer go through a context module
    (a one-layer BiLSTM) and one linear map, both shared by all layers, into prompts per frame.
F, function-specific (``function_specific``)
    behind the first K^s layers (``intra_layers``) all frames of a video stand in one sequence with P_v prompts per
    video: joint space-time attention with the same frozen weights. A trainable embedding of the frame's number is added
    once, before layer K^s + 1. The layers before are those of base VoP, P or C.

Text prompts have two layouts. ``text_layout: paper``: ``[SOS, P^t, words, EOS, padding]``, read out at EOS; the words
keep the positions that CLIP gave them and prompts get none, so they cost no words of the context (the paper does not
say where SOS stands). ``text_layout: released``, the authors' inference code: ``[SOS, prefix, ..., suffix, last
column]``, the suffix before the last *column* and not before EOS; the first layer's prompts get positions, so words +
P_t must fit the context; read out at EOS + P_t, which lies behind EOS for a text shorter than ``words``. Everything
else is the same in both: vision prompts carry no position and pass ``ln_pre`` in the first layer; frames are
L2-normalised before their mean. P, C and F have no public code: they are the paper's text, sizes fixed by its printed
percentages. Not in the text and chosen here: context prompts of the first layer are made from, and put in, behind
``ln_pre``; the frame embedding starts at zero; context module and linear map keep PyTorch's initialisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components import config
from components.backbones.clip import Backbone
from components.backbones.towers import Flow, Hooks
from components.errors import ConfigError
from components.methods.base import Method, MethodSettings, TrainedSettings
from components.methods.context import ContextKind, ContextPrompts
from components.methods.parts import chosen_layers
from components.methods.prompts import LayerPrompts, ReleasedText, Run, behind_first, normal_prompts, repeated

Prompts = Annotated[int, Field(ge=0, le=256)]

# The variants under names of their own. VoP^P, VoP^C, VoP^F, VoP^{F+P} and VoP^{F+C} have the published numbers of
# prompts (4 of 8 are specific). VoP^{P+C} and VoP^{F+P+C} are not in the paper: 2 of each specific kind, 4 generic.
PRESETS: dict[str, dict[str, Any]] = {
    "vop_p": {"position_prompts": 4},
    "vop_c": {"context_prompts": 4},
    "vop_f": {"function_specific": True},
    "vop_fp": {"position_prompts": 4, "function_specific": True},
    "vop_fc": {"context_prompts": 4, "function_specific": True},
    "vop_pc": {"position_prompts": 2, "context_prompts": 2},
    "vop_fpc": {"position_prompts": 2, "context_prompts": 2, "function_specific": True},
}
Width = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=config.STRICT)
class VoPSettings(TrainedSettings):
    """Numbers, kinds and places of prompts.

    Attributes:
        video_prompts: P_v, prompts per layer of the vision tower; 0 leaves the tower without.
        text_prompts: P_t, prompts per layer of the text tower; 0 leaves the tower alone.
        position_prompts: how many of the P_v are position-specific, in layers that see frames one by one.
        context_prompts: how many of the P_v are context-specific, in the same layers.
        function_specific: whether the last layers attend over all frames of a video.
        intra_layers: K^s, first layers that see frames one by one; None for two thirds of them (8 of 12, as published).
        context_module: what reads the class tokens along the frames.
        context_width: its hidden width (per direction); None for D_v.
        context_depth: its layers; None for 1, and 4 of a transformer (both as published).
        video_layers: layers of the vision tower with prompts, from 0; None for all.
        text_layers: the same of the text tower.
        text_layout: where text prompts stand and what is read out, see the module.
        suffix_prompts: how many of the text prompts stand before the last column; only in the released layout, where
            None means half of them (the release's 4 of 8).
        init_std: standard deviation of the prompts' normal initialisation (the release's).
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
        """Prompts before the last column."""
        if self.text_layout == "paper":
            return 0
        return self.text_prompts // 2 if self.suffix_prompts is None else self.suffix_prompts


class VoP(Method):
    """Base VoP and, by settings, all its enhancements."""

    name: ClassVar[str] = "vop"
    Settings: ClassVar[type[MethodSettings]] = VoPSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    starts_as_identity = False

    def __init__(self, backbone: Backbone, settings: VoPSettings, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        spec, std = backbone.spec, settings.init_std
        self._check_context(spec.context_length)
        self.text_layers = chosen_layers(f"methods.{self.name}.text_layers", settings.text_layers, spec.text_layers)
        self.text_prompts = normal_prompts(len(self.text_layers), settings.text_prompts, spec.text_width, std=std)
        self.intra = self._intra_layers(spec.vision_layers)
        chosen = chosen_layers(f"methods.{self.name}.video_layers", settings.video_layers, spec.vision_layers)
        self.frame_layers = [i for i in chosen if i < self.intra]
        self.joint_layers = [i for i in chosen if i >= self.intra]
        specific, width = settings.position_prompts, spec.vision_width
        context = settings.context_prompts if self.frame_layers else 0
        generic, near = settings.video_prompts - specific - settings.context_prompts, len(self.frame_layers)
        self.generic_prompts = normal_prompts(near, generic, width, std=std)
        self.position_prompts = normal_prompts(near, frames, specific, width, std=std)
        self.context = self._context_prompts(width, context) if context else None
        self.joint_prompts = normal_prompts(len(self.joint_layers), settings.video_prompts, width, std=std)
        self.frame_embedding = nn.Parameter(torch.zeros(frames, width)) if settings.function_specific else None
        self.temporal = any(p is not None for p in (self.position_prompts, self.context, self.frame_embedding))

    def _context_prompts(self, width: int, count: int) -> ContextPrompts:
        settings = self.settings
        return ContextPrompts(
            width,
            count,
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
                cure="fewer words or prompts, or text_layout: paper",
            )

    def _intra_layers(self, depth: int) -> int:
        if not self.settings.function_specific:
            return depth
        # At least one joint layer, also in the smallest tower.
        intra = min(depth - 1, -(-2 * depth // 3)) if self.settings.intra_layers is None else self.settings.intra_layers
        if intra >= depth:
            raise ConfigError(
                "no layer is left for all frames together",
                where=f"methods.{self.name}.intra_layers",
                found=intra,
                expected=f"at most {depth - 1}",
                cure="function_specific: false is base VoP",
            )
        return int(intra)

    def vision_hooks(self) -> Hooks:
        return VideoPrompts(self)

    def text_hooks(self) -> Hooks:
        if self.text_prompts is None:
            return super().text_hooks()
        if self.settings.text_layout == "paper":
            return LayerPrompts(self.text_prompts, self.text_layers)
        return ReleasedText(self.text_prompts, self.settings.suffix)


class VideoPrompts(Run):
    """``[CLS, generic, position, context, patches]`` per frame, then ``[frame 1, ..., frame T, P^v]`` per video."""

    def __init__(self, vop: VoP) -> None:
        self.vop = vop
        self.made = 0 if vop.context is None else vop.context.count
        learned = sum(p.shape[-2] for p in (vop.generic_prompts, vop.position_prompts) if p is not None)
        super().__init__(dict.fromkeys(vop.frame_layers, learned + self.made))
        self.learned = learned
        self.row = {layer: row for row, layer in enumerate(vop.frame_layers)}

    def after_positions(self, x: Tensor, flow: Flow) -> Tensor:
        # The first layer's context prompts need what leaves ln_pre: they come in before the layer.
        if self.vop.intra == 0 or 0 not in self.row or not self.learned:
            return x
        return self._put(x, self._learned(0, x, flow), flow)

    def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        if i >= self.vop.intra:
            return self._before_joint(i, x, flow)
        if i == 0:
            context = self.vop.context if 0 in self.row else None
            return x if context is None else self._put(x, context(x[:, 0], flow), flow, behind=self.learned)
        return self.exchange(i, x, flow, held=self.count(i - 1))

    def _put(self, x: Tensor, fresh: Tensor, flow: Flow, behind: int = 0) -> Tensor:
        """``fresh`` prompts behind the first token and ``behind`` prompts that are there already."""
        flow.own = behind_first(x.shape[1] - behind, behind + fresh.shape[1], x.device)
        return torch.cat([x[:, : 1 + behind], fresh.to(x.dtype), x[:, 1 + behind :]], dim=1)

    def fresh(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        learned = [self._learned(i, x, flow)] if self.learned else []
        made = [] if self.vop.context is None else [self.vop.context(x[:, 0], flow)]
        return torch.cat([part.to(x.dtype) for part in (*learned, *made)], dim=1)

    def _learned(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        """Generic and position-specific prompts of layer ``i``: ``float[B*T, P, D]``."""
        vop, parts = self.vop, []
        if vop.generic_prompts is not None:
            parts.append(repeated(vop.generic_prompts[self.row[i]], x.shape[0]))
        if vop.position_prompts is not None:
            of_frames = vop.position_prompts[self.row[i], : flow.frames]
            parts.append(of_frames.repeat(x.shape[0] // flow.frames, 1, 1))
        return torch.cat(parts, dim=1)

    def _before_joint(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        vop = self.vop
        if i == vop.intra:
            assert vop.frame_embedding is not None, "joint layers come with a frame embedding"
            x = x if flow.own is None else x[:, flow.own]
            of_frames = vop.frame_embedding[: flow.frames].repeat(x.shape[0] // flow.frames, 1)
            x = flow.join(x + of_frames.unsqueeze(1).to(x.dtype))
            own, held = x.shape[1], 0
        else:
            own = x.shape[1] if flow.own is None else flow.own.shape[0]
            held = x.shape[1] - own
        prompts = vop.joint_prompts if i in vop.joint_layers else None
        fresh = [] if prompts is None else [prompts[vop.joint_layers.index(i)]]
        count = sum(part.shape[0] for part in fresh)
        if count != held:
            flow.extend(count - held)
            flow.own = torch.arange(own, device=x.device) if count else None
        return torch.cat([x[:, :own], *(repeated(part, x.shape[0]).to(x.dtype) for part in fresh)], dim=1)
