"""TempMe: tokens are merged within frames, then across the frames of a video (Shen et al., ICLR 2025).

LoRA in both towers (:mod:`components.methods.lora`), and two kinds of merging in the vision tower
(:mod:`components.methods.merging`). With 12 frames on ViT-B/32, 600 tokens of a video become 97:

1. *Within frames.* In the layers before the first joint one, ``image_merge`` patches of each frame are merged between
   attention and MLP, compared by their keys (the mean of all heads).
2. *Across frames.* Before attention of a joint layer, the tokens of neighbouring clips become one clip, class tokens
   first. ``clip_share`` of its tokens are merged, compared by the layer's input. A clip begins as one frame, and
   ``groups`` says how many clips become one: 12 frames become 6 clips, then 3, then 1. A learned position for each of
   the clips that are joined is added first; comparisons leave it out. Attention then runs over the whole clip.
3. From the first joint layer on, ``token_share`` of the tokens are merged between attention and MLP, by their keys.

Attention adds the logarithm of a key's size to its logits (proportional attention). Each frame keeps its class token,
and these are read out. All other tokens of the last layer are read by nobody, so nothing is merged there where they are
not computed. LoRA's updates and the positions train: 507,648 scalars on ViT-B/32.

All of this is as in the authors' code (github.com/LunarShen/TempMe), which takes one number of frames. Here a video may
have any number, up to the task's. Before the first joint layer it is stretched to the multiple of the product of
``groups`` at or above the task's frames: with T frames and S places, place j holds frame ``floor(j T / S)``. A frame is
read out at its first place. Padding frames get no place. So a video has one embedding, however it is padded, and groups
whose product divides the task's frames cost nothing more: [2, 2, 2] for 8 frames, [2, 2, 3] for 12.
"""

from __future__ import annotations

from itertools import accumulate
from math import prod
from operator import mul
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.backbones.hooks import Flow, Hooks, all_valid
from components.config import STRICT
from components.errors import ConfigError
from components.methods.lora import LoRA, LoRASettings, Updates
from components.methods.merging import matching, merged
from components.methods.parts import chosen_layers

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class TempMeSettings(LoRASettings):
    """LoRA's settings, and where how much is merged.

    Attributes:
        groups: For each joint layer, how many neighbouring clips become one.
        merge_layers: The joint layers of the vision tower, from 0 and ascending. None means the layers before the last
            one (8, 9 and 10 of 12).
        image_merge: Patches per frame that a layer before them merges.
        clip_share: The part of a joint clip's tokens that is merged before attention, at most half of the patches.
        token_share: The part of the tokens that is merged between attention and MLP, at most half of the patches.
    """

    groups: tuple[Annotated[int, Field(ge=2)], ...] = (2, 2, 3)
    merge_layers: tuple[int, ...] | None = None
    image_merge: Annotated[int, Field(ge=0)] = 2
    clip_share: Share = 0.3
    token_share: Share = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.groups:
            raise ValueError("groups is empty: no frames would be joined (use lora)")


class TempMe(LoRA):
    """LoRA with merging of tokens in the vision tower."""

    Settings = TempMeSettings
    settings: TempMeSettings
    temporal = True
    starts_as_identity = False
    needs_class_token = True

    def setup(self) -> None:
        super().setup()
        groups = self.settings.groups
        self.merge_layers = self._merge_layers()
        # Clips before each joint layer, and at the end.
        self.places = -(-self.frames // prod(groups)) * prod(groups)
        self.clips = [self.places // joined for joined in accumulate((1, *groups), mul)]
        width = self.spec.vision_width
        self.positions = nn.ParameterList([nn.Parameter(torch.zeros(count, width)) for count in self.clips[:-1]])

    def _merge_layers(self) -> list[int]:
        depth, where = self.spec.vision_layers, f"methods.{self.name}"
        count, layers = len(self.settings.groups), self.settings.merge_layers
        if layers is None and count >= depth:
            raise ConfigError(
                "the vision tower has no layer for each group before the last one",
                where=f"{where}.groups",
                found=list(self.settings.groups),
                expected=f"at most {depth - 1} groups",
            )
        chosen = chosen_layers(
            f"{where}.merge_layers", range(depth - 1 - count, depth - 1) if layers is None else layers, depth
        )
        if len(chosen) != count:
            raise ConfigError(
                "groups and merge_layers do not go together",
                where=f"{where}.merge_layers",
                found=list(layers or ()),
                expected=f"{count} different layers, one for each of groups {list(self.settings.groups)}",
            )
        return chosen

    def vision_hooks(self) -> Hooks:
        return _Merging(self)


class _Merging(Updates):
    """Merging, in the layers of one pass, next to LoRA's updates."""

    token_wise = False
    merges_tokens = True

    def __init__(self, method: TempMe) -> None:
        super().__init__(method.video, method.settings.factor)
        self.settings, self.positions = method.settings, list(method.positions)
        self.joint = {layer: number for number, layer in enumerate(method.merge_layers)}
        self.places, self.clips = method.places, method.clips
        self.last, self.heads = method.spec.vision_layers - 1, method.spec.vision_heads
        self.first = method.merge_layers[0]

    def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        if i not in self.joint:
            return x
        number = self.joint[i]
        sizes = _sizes(x, flow)
        if number == 0:
            x, sizes = self._stretched(x, sizes, flow)
        group, clips = self.settings.groups[number], self.clips[number]
        classes = self.places // clips
        moved = x.unflatten(0, (-1, clips)) + self.positions[number][:, None].to(x.dtype)
        x, moved = (_joined(tokens, group, classes) for tokens in (x, moved.flatten(0, 1)))
        sizes = _joined(sizes[..., None], group, classes).squeeze(2)
        classes *= group
        flow.readout = torch.arange(classes, device=x.device).expand(len(x), -1)
        count = min(int(x.shape[1] * self.settings.clip_share), (x.shape[1] - classes) // 2)
        return _merge(moved, sizes, x.detach(), classes, count, flow)

    def before_mlp(self, i: int, x: Tensor, qkv: Tensor, flow: Flow) -> Tensor:
        if flow.pooled_only:
            return x
        classes = 1 if flow.readout is None else flow.readout.shape[1]
        count = self.settings.image_merge if i < self.first else int(x.shape[1] * self.settings.token_share)
        count = min(count, (x.shape[1] - classes) // 2)
        keys = qkv.detach().chunk(3, dim=-1)[1].unflatten(-1, (self.heads, -1)).mean(dim=-2)
        return _merge(x, _sizes(x, flow), keys, classes, count, flow)

    def after_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        """After the last layer, the class tokens of the frames: ``float[B, T, D]``."""
        if i < self.last:
            return x
        x = x[:, : self.places // self.clips[-1]].unflatten(0, (-1, self.clips[-1])).flatten(1, 2)
        flow.pooled_only = True
        if not self._stretches(flow):
            return x
        lengths = _lengths(flow, len(x), x.device)
        frames = torch.arange(flow.frames, device=x.device)
        # The first place of each frame. Padding frames read one that exists.
        first = ((frames * self.places + lengths - 1) // lengths).clamp(max=self.places - 1)
        return x[torch.arange(len(x), device=x.device)[:, None], first]

    def _stretches(self, flow: Flow) -> bool:
        return flow.frames != self.places or not (flow.mask is None or all_valid(flow.mask))

    def _stretched(self, x: Tensor, sizes: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
        """``float[B*T, L, D], float[B*T, L]`` with as many frames per video as there are places."""
        if not self._stretches(flow):
            return x, sizes
        videos = len(x) // flow.frames
        places = torch.arange(self.places, device=x.device)
        frames = places * _lengths(flow, videos, x.device) // self.places
        rows = (frames + torch.arange(videos, device=x.device)[:, None] * flow.frames).flatten()
        return x[rows], sizes[rows]


def _lengths(flow: Flow, videos: int, device: torch.device) -> Tensor:
    """The number of frames of each video that are not padding: ``int64[B, 1]``."""
    if flow.mask is None:
        return torch.full((videos, 1), flow.frames, device=device)
    return flow.mask.sum(dim=1, keepdim=True)


def _sizes(x: Tensor, flow: Flow) -> Tensor:
    return torch.ones(x.shape[:2], device=x.device) if flow.sizes is None else flow.sizes


def _joined(x: Tensor, group: int, classes: int) -> Tensor:
    """Each ``group`` clips as one, class tokens first: ``float[n, L, D] -> float[n / group, group * L, D]``."""
    clips = x.unflatten(0, (-1, group))
    return torch.cat([clips[:, :, :classes].flatten(1, 2), clips[:, :, classes:].flatten(1, 2)], dim=1)


def _merge(x: Tensor, sizes: Tensor, metric: Tensor, classes: int, count: int, flow: Flow) -> Tensor:
    """``x`` with ``count`` patches merged. Keeps the sizes for the next attention."""
    if count:
        x, sizes = merged(x, sizes, matching(metric, classes, count))
    flow.sizes, flow.attention = sizes, sizes.log()[:, None, None]
    return x
