"""A small random backbone for tests."""

from __future__ import annotations

from typing import Any

import open_clip
import torch

from components.backbones.clip import Backbone
from components.backbones.load import create

CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 16, "patch_size": 8, "layers": 3, "width": 32, "head_width": 16, "pos_embed_type": "sin_cos_2d",
    },
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "layers": 3, "width": 16, "heads": 2},
}  # fmt: skip
WORDS = 12
FRAMES = 5


def make_backbone(seed: int = 0, learned_positions: bool = False, **changes: Any) -> Backbone:
    """The tiny backbone. ``changes`` replace entries of its config."""
    torch.manual_seed(seed)
    raw = {**CONFIG, **changes}
    if learned_positions:
        raw["vision_cfg"] = {**raw["vision_cfg"], "pos_embed_type": "learnable"}
    return Backbone(create("tiny", raw), "tiny", open_clip.SimpleTokenizer())


def clips(
    backbone: Backbone, videos: int = 4, frames: int = FRAMES, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random frames ``float[videos, frames, 3, S, S]`` and a mask in which later videos are shorter."""
    generator = torch.Generator().manual_seed(seed)
    size = backbone.spec.image_size
    lengths = torch.tensor([max(1, frames - i) for i in range(videos)])
    mask = torch.arange(frames) < lengths[:, None]
    return torch.randn(videos, frames, 3, size, size, generator=generator), mask


TEXTS = ["a red circle moves left", "a blue square", "two green triangles appear and grow", "it turns"]
