"""Plain CLIP: open_clip's ``VisionTransformer``, read out at its class token.."""

from __future__ import annotations

from typing import Any

from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn

from components.backbones.scope import unsupported
from components.backbones.towers import Layers, VisionTower


def vision_tower(visual: Any, model: str) -> VisionTower:
    """The tower over open_clip's modules.

    Raises:
        BackboneError: It computes something else. The message names the difference.
    """
    if not isinstance(visual, VisionTransformer):
        raise unsupported(model, f"its vision tower is a {type(visual).__name__}")
    reasons = {
        "it pools patches by attention or averaging": visual.attn_pool is not None or visual.pool_type != "tok",
        "its input is not square": len(set(visual.image_size)) != 1 or len(set(visual.patch_size)) != 1,
        "its blocks are not CLIP's": not all(
            type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise unsupported(model, reason)
    blocks = visual.transformer.resblocks
    assert isinstance(blocks, nn.ModuleList)
    return VisionTower(
        conv1=visual.conv1,
        class_embedding=visual.class_embedding,
        positional_embedding=visual.positional_embedding,
        ln_pre=visual.ln_pre,
        layers=Layers(blocks, causal=False),
        ln_post=visual.ln_post,
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        proj=visual.proj,
    )
