"""A small random backbone of every family, for tests. The towers are open_clip's and timm's in small sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from components.backbones.clip import Backbone
from components.backbones.load import create, vision_family

_TEXT = {"context_length": 20, "vocab_size": 49408, "layers": 3, "width": 16, "heads": 2}
_SIZES = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
_PE = {**_SIZES, "attn_pool_num_heads": 2, "ref_feat_shape": (2, 2)}
_PATCHES = {"image_size": 16, "patch_size": 8, "layers": 3, "width": 32, "head_width": 16}


def _timm(name: str, pool: str, sizes: Mapping[str, Any], proj: str | None = None) -> dict[str, Any]:
    return {
        "image_size": 16, "timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "timm_kwargs": sizes,
    }  # fmt: skip


CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": 24, "vision_cfg": _PATCHES, "text_cfg": _TEXT},
    "metaclip2": {
        "embed_dim": 24, "vision_cfg": _PATCHES, "text_cfg": {**_TEXT, "pool_type": "eos", "eos_id": 49407},
        "quick_gelu": True,
    },
    "siglip": {
        "embed_dim": 32, "init_logit_bias": -10.0,
        "vision_cfg": _timm("vit_base_patch16_siglip_224", "map", _SIZES, "none"),
        "text_cfg": {**_TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
                     "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}},
    },
    "pe_core": {
        "embed_dim": 24, "vision_cfg": _timm("vit_pe_core_base_patch16_224", "map", _PE), "text_cfg": _TEXT,
    },
    "pe_core_without_class": {
        "embed_dim": 24,
        "vision_cfg": _timm("vit_pe_core_gigantic_patch14_448", "map", {**_PE, "mlp_ratio": 3.0}),
        "text_cfg": _TEXT,
    },
    "mobileclip": {
        "embed_dim": 24, "vision_cfg": _timm("vit_large_patch14_clip_224", "token", _SIZES),
        "text_cfg": {**_TEXT, "no_causal_mask": True},
    },
}  # fmt: skip


class WithoutStart:
    """CLIP's vocabulary as SigLIP uses its own: no start token, and another token than 0 as padding."""

    sot_token_id = None
    pad_token_id = 7

    def __init__(self) -> None:
        clip = open_clip.SimpleTokenizer()
        self.encode, self.eot_token_id, self.vocab_size = clip.encode, clip.eot_token_id, clip.vocab_size


def tokenizer_of(name: str) -> Any:
    return WithoutStart() if "siglip" in name.lower() else open_clip.SimpleTokenizer()


def randomised(clip: nn.Module, seed: int = 0) -> nn.Module:
    """``clip`` with every parameter and statistic drawn, so that no part is close to zero or to an identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in clip.named_parameters():
        if parameter.ndim and not name.startswith("logit_"):
            spread = torch.randn(parameter.shape, generator=generator)
            # Norms keep a scale around 1. Maps keep the size of what goes through them.
            scale = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.data.copy_(centre + scale * spread)
    for name, buffer in clip.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return clip.eval()


def open_clip_model(name: str) -> nn.Module:
    """open_clip's own model of a family."""
    return randomised(create(name, CONFIGS[name], bool(CONFIGS[name].get("quick_gelu"))))


def family_backbone(name: str) -> Backbone:
    """The backbone over :func:`open_clip_model`'s weights."""
    return Backbone(open_clip_model(name), name, tokenizer_of(name), None, vision_family(name, CONFIGS[name]))


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
