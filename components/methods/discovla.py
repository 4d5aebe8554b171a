"""DiscoVLA: class tokens that also attend to the other frames of their video (Shen et al., CVPR 2025).

LoRA in both towers (:mod:`components.methods.lora`), and image-video fusion in the last H_V layers of the vision tower.
There, with ``q_t`` the query of frame t's class token, attention's output for this token becomes::

    W_o Att(q_t; K, V of all frames) + Adapter(W_o Att(q_t; K, V of frame t))     Adapter(x) = W_up QuickGELU(W_down x)

The heads and W_o are CLIP's. Patches attend within their frame as before. W_down starts as Xavier's uniform, its bias
at 1e-6, W_up at zero, as in the authors' code (github.com/LunarShen/DsicoVLA). Padding frames give no keys. Without
captions of frames this is the whole method, with the loss of all methods here: 543,776 scalars on ViT-B/32.

``captions: true`` is the paper's method: a training then has a caption of every frame, written by a captioner
(``pipelines/captions.py``). In the last H_L layers of the text tower, the end tokens of the T captions of a video are
fused in the same way. The keys are all tokens of all its captions up to each end token. With c_i the normalised
features of a video's captions, f_j those of a video's frames, and tau the logit scale, the loss is::

    L = L_video + a L_image + b L_distil                                                    a = 0.3, b = 1
    s_i = max_j tau c_i . f_j     s'_j = max_i tau c_i . f_j
    image(captions, frames) = (sum_i softmax(s)_i s_i + sum_j softmax(s')_j s'_j) / 2

L_video is the loss of all methods here. L_image is the same loss of the scores ``image`` instead of text and video.
With p the softmax of a row of the image scores and q that of the scores of texts and videos, L_distil is the mean over
all B x B entries of ``100 p (log p - log q)``, and the mean of this over rows and over columns. Gradients pass through
p too, as in the authors' code. Padding frames and their captions count in none of this.

Videos and texts are embedded without captions. The fusion in the text tower (17,424 scalars on ViT-B/32, of 561,200 in
all) serves the training alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.hooks import Flow, Hooks, all_valid
from components.backbones.towers import Layers, pick, quick_gelu
from components.config import STRICT
from components.errors import ConfigError
from components.methods.frame_captions import CaptionLoss, Contrast
from components.methods.lora import LoRA, LoRASettings, Updates

# The factor on the mean over entries, as in the authors' code.
DISTIL_SCALE = 100.0


@dataclass(frozen=True, config=STRICT)
class DiscoVLASettings(LoRASettings):
    """LoRA's settings, and those of the fusion and the losses.

    Attributes:
        fusion_layers: H_V, the number of last layers of the vision tower with fusion.
        bottleneck: Hidden width of the adapters (LoRA's rank in the paper).
        captions: Whether a training has a caption of every frame, and the losses that need it.
        text_fusion_layers: H_L, the number of last layers of the text tower that fuse captions of frames.
        image_weight: a, the weight of L_image.
        distil_weight: b, the weight of L_distil.
    """

    fusion_layers: Annotated[int, Field(ge=1)] = 4
    bottleneck: Annotated[int, Field(ge=1)] = 8
    captions: bool = False
    text_fusion_layers: Annotated[int, Field(ge=1)] = 2
    image_weight: Annotated[float, Field(ge=0)] = 0.3
    distil_weight: Annotated[float, Field(ge=0)] = 1.0


class DiscoVLA(LoRA):
    """LoRA with attention of class tokens across the frames of a video."""

    Settings = DiscoVLASettings
    settings: DiscoVLASettings
    starts_as_identity = False
    needs_class_token = True

    def setup(self) -> None:
        super().setup()
        spec, settings = self.spec, self.settings
        self.fusion = self._adapters("fusion_layers", settings.fusion_layers, spec.vision_layers, spec.vision_width)
        if settings.captions:
            count = settings.text_fusion_layers
            self.text_fusion = self._adapters("text_fusion_layers", count, spec.text_layers, spec.text_width)
            self.caption_loss = _Losses(self)

    def _adapters(self, key: str, count: int, depth: int, width: int) -> nn.ModuleDict:
        if count > depth:
            raise ConfigError(
                f"more fusion layers than the {'text' if key.startswith('text') else 'vision'} tower has",
                where=f"methods.{self.name}.{key}",
                found=count,
                expected=f"at most {depth}",
            )
        return nn.ModuleDict({str(i): Adapter(width, self.settings.bottleneck) for i in range(depth - count, depth)})

    def vision_hooks(self) -> Hooks:
        return _FrameFusion(self)

    def caption_features(self, captions: Tensor, mask: Tensor) -> Tensor:
        """Features of the captions of frames, fused and not normalised.

        Args:
            captions: ``int64[B, T, L]``.
            mask: ``bool[B, T]``, False for captions of padding frames, whose features have no meaning.

        Returns:
            ``float[B, T, E]``.
        """
        hooks = _CaptionFusion(self, self.shown(mask))
        return self.backbone.text(captions.flatten(0, 1), hooks).unflatten(0, mask.shape)


class Adapter(nn.Module):
    """``W_up QuickGELU(W_down x)``: ``float[..., D] -> float[..., D]``, zero at the start."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.normal_(self.down.bias, std=1e-6)
        for parameter in (self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(quick_gelu(self.down(x)))
        return out


class _Fusion(Updates, ABC):
    """Fusion of the tokens that are read out, in the layers of one pass, next to LoRA's updates."""

    token_wise = False

    def __init__(self, updates: nn.ModuleDict, factor: float, adapters: nn.ModuleDict, layers: Layers) -> None:
        super().__init__(updates, factor)
        self.adapters = {int(name): adapter for name, adapter in adapters.items()}
        self.blocks: list[Any] = list(layers.blocks)
        # The adapter's output for the read-out tokens of the present layer: float[B*T, D].
        self.added: Tensor | None = None

    def after_heads(self, i: int, qkv: Tensor, o: Tensor, flow: Flow) -> Tensor:
        if i not in self.adapters:
            return o
        alone = o.flatten(0, 1) if flow.pooled_only else self.tokens(o, flow)
        self.added = self.adapters[i](self.blocks[i].attn.out_proj(alone))
        return self._with_tokens(o, self._across(i, qkv, flow), flow)

    def after_attention(self, i: int, x: Tensor, h: Tensor, a: Tensor, flow: Flow) -> Tensor:
        if self.added is None:
            return a
        added, self.added = self.added, None
        present = a.flatten(0, 1) if flow.pooled_only else self.tokens(a, flow)
        return self._with_tokens(a, present + added, flow)

    @abstractmethod
    def tokens(self, x: Tensor, flow: Flow) -> Tensor:
        """The tokens that are read out: ``float[n, L, D] -> float[B*T, D]``."""

    @abstractmethod
    def with_tokens(self, x: Tensor, tokens: Tensor, flow: Flow) -> Tensor:
        """``x: float[n, L, D]`` with ``tokens: float[B*T, D]`` in their places."""

    @abstractmethod
    def whole(self, qkv: Tensor, flow: Flow) -> tuple[Tensor, Tensor | None, int]:
        """All tokens of each video ``float[B, M, 3D]``, which of them are keys ``bool[B, 1, 1, M]``, and T."""

    def _with_tokens(self, x: Tensor, tokens: Tensor, flow: Flow) -> Tensor:
        return tokens.reshape(x.shape) if flow.pooled_only else self.with_tokens(x, tokens, flow)

    def _across(self, i: int, qkv: Tensor, flow: Flow) -> Tensor:
        """The heads' output for read-out tokens that attend to all tokens of their video: ``float[B*T, D]``."""
        heads: int = self.blocks[i].attn.num_heads
        every, keys, frames = self.whole(qkv, flow)
        queries = self.tokens(qkv, flow).unflatten(0, (-1, frames))
        q = _in_heads(queries.chunk(3, dim=-1)[0], heads)
        k, v = (_in_heads(part, heads) for part in every.chunk(3, dim=-1)[1:])
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        return o.transpose(1, 2).flatten(2).flatten(0, 1)


class _FrameFusion(_Fusion):
    """Class tokens of frames."""

    def __init__(self, method: DiscoVLA) -> None:
        super().__init__(method.video, method.settings.factor, method.fusion, method.backbone.vision.layers)

    def tokens(self, x: Tensor, flow: Flow) -> Tensor:
        return flow.first_tokens(x)

    def with_tokens(self, x: Tensor, tokens: Tensor, flow: Flow) -> Tensor:
        return flow.with_first_tokens(x, tokens)

    def whole(self, qkv: Tensor, flow: Flow) -> tuple[Tensor, Tensor | None, int]:
        if flow.joint:
            return qkv, flow.attention, flow.frames
        keys = None
        if flow.mask is not None and not all_valid(flow.mask):
            keys = flow.mask.repeat_interleave(qkv.shape[1], dim=1)[:, None, None]
        return qkv.unflatten(0, (-1, flow.frames)).flatten(1, 2), keys, flow.frames


class _CaptionFusion(_Fusion):
    """End tokens of the captions of a video's frames.

    Args:
        method: The method.
        mask: ``bool[B, T]``, False for captions of padding frames.
    """

    def __init__(self, method: DiscoVLA, mask: Tensor) -> None:
        super().__init__(method.text, method.settings.factor, method.text_fusion, method.backbone.text.layers)
        self.mask = mask

    def tokens(self, x: Tensor, flow: Flow) -> Tensor:
        return pick(x, flow.readout).flatten(0, 1)

    def with_tokens(self, x: Tensor, tokens: Tensor, flow: Flow) -> Tensor:
        assert flow.readout is not None
        place = torch.arange(x.shape[1], device=x.device) == flow.readout.unsqueeze(1)
        return torch.where(place.unsqueeze(-1), tokens.unsqueeze(1).to(x.dtype), x)

    def whole(self, qkv: Tensor, flow: Flow) -> tuple[Tensor, Tensor | None, int]:
        assert flow.readout is not None
        frames = self.mask.shape[1]
        words = torch.arange(qkv.shape[1], device=qkv.device) <= flow.readout.unsqueeze(1)
        keys = (words & self.mask.flatten().unsqueeze(1)).unflatten(0, (-1, frames)).flatten(1)
        return qkv.unflatten(0, (-1, frames)).flatten(1, 2), keys[:, None, None], frames


def _in_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class _Losses(CaptionLoss):
    """L_image and L_distil. A video's row is its captions' and its frames' vectors, zeros at padding."""

    def __init__(self, method: DiscoVLA) -> None:
        super().__init__(2 * method.frames * method.spec.embed_dim)
        self.method = method

    def rows(self, features: Tensor, mask: Tensor, captions: Tensor) -> Tensor:
        both = torch.stack([self.method.caption_features(captions, mask), features], dim=1)
        both = F.normalize(both.float(), dim=-1).masked_fill(~mask[:, None, :, None], 0)
        return F.pad(both, (0, 0, 0, self.method.frames - mask.shape[1])).flatten(1)

    def loss(self, logits: Tensor, rows: Tensor, contrast: Contrast) -> Tensor:
        settings = self.method.settings
        captions, frames = rows.unflatten(1, (2, self.method.frames, -1)).unbind(1)
        image = image_scores(self.method.logit_scale.float() * captions, frames)
        return settings.image_weight * contrast(image) + settings.distil_weight * distillation(logits, image)


def image_scores(captions: Tensor, frames: Tensor) -> Tensor:
    """The scores of all videos' captions with all videos' frames.

    Args:
        captions: ``float[B, T, E]``, scaled; zeros at padding.
        frames: ``float[N, T, E]``, zeros at padding.

    Returns:
        ``float[B, N]``.
    """
    real = captions.any(dim=-1)[:, None, :, None] & frames.any(dim=-1)[None, :, None, :]
    pairs = torch.einsum("bie,nje->bnij", captions, frames)
    pairs = pairs.masked_fill(~real, torch.finfo(pairs.dtype).min)
    return (_weighted(pairs.amax(dim=3), real.any(dim=3)) + _weighted(pairs.amax(dim=2), real.any(dim=2))) / 2


def _weighted(scores: Tensor, real: Tensor) -> Tensor:
    """The mean of the ``real`` ones of ``scores: float[B, N, T]``, with their softmax as weights; 0 without any."""
    return (scores.softmax(dim=2) * scores.masked_fill(~real, 0)).sum(dim=2)


def distillation(video: Tensor, image: Tensor) -> Tensor:
    """L_distil of the scaled scores ``float[B, B]`` of texts and videos, taught by those of captions and frames."""
    divergences = []
    for dim in (0, 1):
        p, q = image.log_softmax(dim), video.log_softmax(dim)
        divergences.append((p.exp() * (p - q)).mean())
    return DISTIL_SCALE * (divergences[0] + divergences[1]) / 2
