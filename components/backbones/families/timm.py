"""What the two families of timm towers have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

from components.backbones.blocks import block_fault
from components.backbones.scope import unsupported


class TimmVisual(nn.Module):
    """A timm model of any size in the place of open_clip's ``TimmModel``, with the same names of weights.

    Args:
        config: ``vision_cfg`` with ``timm_model_name``, ``timm_pool``, ``timm_proj``, ``image_size``, and the arguments
            of the timm model in ``timm_kwargs``.
        embed_dim: E, the width of the joint space.
    """

    def __init__(self, config: Mapping[str, Any], embed_dim: int) -> None:
        super().__init__()
        size = config["image_size"]
        self.image_size = (size, size)
        self.trunk = timm.create_model(
            config["timm_model_name"],
            img_size=size,
            num_classes=0 if config.get("timm_proj") == "none" else embed_dim,
            global_pool=config["timm_pool"],
            **config["timm_kwargs"],
        )
        self.head = nn.Sequential()

    def forward(self, frames: Tensor) -> Tensor:
        """``float[n, 3, S, S] -> float[n, E]``, by timm's code."""
        features: Tensor = self.head(self.trunk(frames))
        return features


def checked_blocks(visual: Any, model: str, kind: str) -> list[Any]:
    """The blocks of a timm tower.

    Args:
        visual: open_clip's ``TimmModel``.
        model: Its name, for messages.
        kind: The class that the trunk must have.

    Raises:
        BackboneError: The tower computes what :class:`components.backbones.towers.VisionTower` does not.
    """
    trunk = getattr(visual, "trunk", None)
    if type(trunk).__name__ != kind:
        raise unsupported(model, f"its vision tower is a {type(trunk or visual).__name__}")
    assert trunk is not None
    blocks = list(trunk.blocks)
    if not blocks or type(blocks[0]).__name__ not in ("Block", "EvaBlock"):
        raise unsupported(model, "its blocks are not pre-norm blocks")
    reasons = {
        "it has no learned positions": trunk.pos_embed is None,
        "it has register tokens": getattr(trunk, "reg_token", None) is not None,
        "its input size changes": getattr(trunk, "dynamic_img_size", False),
        "its patches are normalised": not isinstance(getattr(trunk.patch_embed, "norm", nn.Identity()), nn.Identity),
        "it pools patches by averaging": trunk.attn_pool is None and trunk.global_pool != "token",
        "its features are normalised after pooling": not isinstance(trunk.fc_norm, nn.Identity),
        "open_clip projects its features by more than one map": len(visual.head) > 0,
        "its input is not square": len(set(visual.image_size)) != 1,
        "its trunk has another image size": tuple(trunk.patch_embed.img_size) != tuple(visual.image_size),
    }
    faults = [reason for reason, holds in reasons.items() if holds]
    faults += [fault for fault in map(block_fault, blocks) if fault]
    if faults:
        raise unsupported(model, faults[0])
    return blocks


def patch_size(visual: Any) -> int:
    """The side of a patch, in pixels."""
    return int(visual.image_size[0] // visual.trunk.patch_embed.grid_size[0])


def pool_and_proj(visual: Any) -> tuple[nn.Module | None, nn.Linear | None]:
    """The pooling and the projection of a timm tower. The projection is None where features leave as they are."""
    head = visual.trunk.head
    return visual.trunk.attn_pool, None if isinstance(head, nn.Identity) else head
