"""DiscoVLA: class tokens that also attend to the other frames of their video (Shen et al., CVPR 2025).

LoRA in both towers (:mod:`components.methods.lora`), and image-video fusion in the last layers of the vision tower.
There, with ``q_t`` the query of frame t's class token, attention's output for this token becomes::

    W_o Att(q_t; K, V of all frames) + Adapter(W_o Att(q_t; K, V of frame t))     Adapter(x) = W_up QuickGELU(W_down x)

The heads and W_o are CLIP's. Patches attend within their frame as before. W_down starts as Xavier's uniform, its bias
at 1e-6, W_up at zero, as in the authors' code (github.com/LunarShen/DsicoVLA). Padding frames give no keys.

This is the model that embeds videos and texts, with the loss of all methods here: 543,776 scalars on ViT-B/32. The
paper also trains with captions of single frames, written by a captioner. They add two losses, and 17,424 scalars in the
text tower (561,200 in all) that no caption of a video passes. That part is left out.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.hooks import Flow, Hooks, all_valid
from components.backbones.towers import quick_gelu
from components.config import STRICT
from components.errors import ConfigError
from components.methods.lora import LoRA, LoRASettings, Updates


@dataclass(frozen=True, config=STRICT)
class DiscoVLASettings(LoRASettings):
    """LoRA's settings, and the sizes of the fusion.

    Attributes:
        fusion_layers: H_V, the number of last layers of the vision tower with fusion.
        bottleneck: Hidden width of the adapters (LoRA's rank in the paper).
    """

    fusion_layers: Annotated[int, Field(ge=1)] = 4
    bottleneck: Annotated[int, Field(ge=1)] = 8


class DiscoVLA(LoRA):
    """LoRA with attention of class tokens across the frames of a video."""

    Settings = DiscoVLASettings
    settings: DiscoVLASettings
    starts_as_identity = False
    needs_class_token = True

    def setup(self) -> None:
        super().setup()
        depth, count = self.spec.vision_layers, self.settings.fusion_layers
        if count > depth:
            raise ConfigError(
                "more fusion layers than the vision tower has",
                where=f"methods.{self.name}.fusion_layers",
                found=count,
                expected=f"at most {depth}",
            )
        width, hidden = self.spec.vision_width, self.settings.bottleneck
        self.fusion = nn.ModuleDict({str(i): Adapter(width, hidden) for i in range(depth - count, depth)})

    def vision_hooks(self) -> Hooks:
        return _Fusion(self)


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


class _Fusion(Updates):
    """Fusion in the layers of one pass, next to LoRA's updates."""

    token_wise = False

    def __init__(self, method: DiscoVLA) -> None:
        super().__init__(method.video, method.settings.factor)
        self.adapters = {int(name): adapter for name, adapter in method.fusion.items()}
        self.blocks: list[Any] = list(method.backbone.vision.layers.blocks)
        self.heads = method.spec.vision_heads
        # The adapter's output for the class tokens of the present layer: float[B*T, D].
        self.added: Tensor | None = None

    def after_heads(self, i: int, qkv: Tensor, o: Tensor, flow: Flow) -> Tensor:
        if i not in self.adapters:
            return o
        in_frame = o.flatten(0, 1) if flow.pooled_only else flow.first_tokens(o)
        self.added = self.adapters[i](self.blocks[i].attn.out_proj(in_frame))
        return self._with_first(o, self._across_frames(qkv, flow), flow)

    def after_attention(self, i: int, x: Tensor, h: Tensor, a: Tensor, flow: Flow) -> Tensor:
        if self.added is None:
            return a
        added, self.added = self.added, None
        first = a.flatten(0, 1) if flow.pooled_only else flow.first_tokens(a)
        return self._with_first(a, first + added, flow)

    def _with_first(self, x: Tensor, first: Tensor, flow: Flow) -> Tensor:
        return first.reshape(x.shape) if flow.pooled_only else flow.with_first_tokens(x, first)

    def _across_frames(self, qkv: Tensor, flow: Flow) -> Tensor:
        """The heads' output for class tokens that attend to all tokens of their video: ``float[B*T, D]``."""
        frames, keys = flow.frames, None
        every = qkv if flow.joint else qkv.unflatten(0, (-1, frames)).flatten(1, 2)
        if flow.joint:
            keys = flow.attention
        elif flow.mask is not None and not all_valid(flow.mask):
            keys = flow.mask.repeat_interleave(qkv.shape[1], dim=1)[:, None, None]
        first = flow.first_tokens(qkv).unflatten(0, (-1, frames))
        q = self._in_heads(first.chunk(3, dim=-1)[0])
        k, v = (self._in_heads(part) for part in every.chunk(3, dim=-1)[1:])
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        return o.transpose(1, 2).flatten(2).flatten(0, 1)

    def _in_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
