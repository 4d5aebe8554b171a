"""timm's ``VisionTransformer``: SigLIP and SigLIP 2 (no class token, attention pooling), MobileCLIP2-B and -L/14.

MobileCLIP2-B embeds patches by a small convolutional network with batch norms. These keep their statistics whatever
trains. Its class token has no position.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from components.backbones.blocks import Block
from components.backbones.families.timm import checked_blocks, patch_size, pool_and_proj
from components.backbones.scope import unsupported
from components.backbones.towers import Layers, VisionTower


def vision_tower(visual: Any, model: str) -> VisionTower:
    """The tower over timm's modules.

    Raises:
        BackboneError: It computes something else. The message names the difference.
    """
    trunk = visual.trunk
    blocks = checked_blocks(visual, model, "VisionTransformer")
    if trunk.attn_pool is not None and trunk.num_prefix_tokens and not trunk.pool_include_prefix:
        raise unsupported(model, "it has a class token and does not pool it")
    patches = trunk.patch_embed
    pool, proj = pool_and_proj(visual)
    return VisionTower(
        conv1=patches.proj if type(patches).__name__ == "PatchEmbed" else patches,
        class_embedding=None if trunk.cls_token is None else nn.Parameter(trunk.cls_token.detach().flatten()),
        positional_embedding=nn.Parameter(trunk.pos_embed.detach()[0]),
        ln_pre=trunk.norm_pre,
        layers=Layers(nn.ModuleList(Block(block) for block in blocks), causal=False),
        ln_post=trunk.norm,
        image_size=visual.image_size[0],
        patch_size=patch_size(visual),
        proj=proj,
        pool=pool,
    )
