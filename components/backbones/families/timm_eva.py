"""timm's ``Eva``: PE-Core, with rotary positions next to learned ones and attention pooling over all tokens."""

from __future__ import annotations

from typing import Any

from torch import nn

from components.backbones.blocks import Block, Rotary
from components.backbones.families.timm import checked_blocks, patch_size, pool_and_proj
from components.backbones.scope import unsupported
from components.backbones.towers import Layers, VisionTower


def vision_tower(visual: Any, model: str) -> VisionTower:
    """The tower over timm's modules.

    Raises:
        BackboneError: It computes something else. The message names the difference.
    """
    trunk = visual.trunk
    blocks = checked_blocks(visual, model, "Eva")
    rope = trunk.rope
    if rope is not None and (trunk.rope_mixed or getattr(blocks[0].attn, "rotate_half", False)):
        raise unsupported(model, "its rotary positions differ by layer or pair channels of two halves")
    rotary = None
    if rope is not None:
        sine, cosine = rope.get_embed().chunk(2, dim=-1)
        rotary = Rotary(sine, cosine, trunk.num_prefix_tokens)
    pool, proj = pool_and_proj(visual)
    return VisionTower(
        conv1=trunk.patch_embed.proj,
        class_embedding=None if trunk.cls_token is None else nn.Parameter(trunk.cls_token.detach().flatten()),
        positional_embedding=nn.Parameter(trunk.pos_embed.detach()[0]),
        ln_pre=trunk.norm_pre,
        layers=Layers(nn.ModuleList(Block(block) for block in blocks), causal=False, rotary=rotary),
        ln_post=trunk.norm,
        image_size=visual.image_size[0],
        patch_size=patch_size(visual),
        proj=proj,
        pool=pool,
    )
