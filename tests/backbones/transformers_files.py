"""Small checkpoints in transformers' layout, and what transformers 5.24 computes with them.

The numbers were made once, with ``CLIPModel`` and ``SiglipModel`` of these sizes, whose parameters were filled by
:func:`filled`, and with ``get_image_features`` and ``get_text_features`` for :func:`image` and the tokens below.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

CLIP_TOKENS = [58, 5, 17, 3, 59, 0, 0, 0, 0]
CLIP_IMAGE = [-0.2325877547264099, 0.24649980664253235, -0.26034310460090637, 0.2741139233112335]
CLIP_TEXT = [-0.28387778997421265, -0.31332477927207947, -0.34209588170051575, -0.37012937664985657]
SIGLIP_TOKENS = [5, 17, 3, 1, 0, 0, 0, 0, 0]
SIGLIP_IMAGE = [0.2513079047203064, 0.541283905506134, -1.0806965827941895, 0.21550393104553223]
SIGLIP_TEXT = [-1.0419713258743286, 1.2715016603469849, -0.23321615159511566, -0.6145039796829224]

CONTEXT = 9
# open_clip's config of the CLIP. transformers' tokens were below 60, and the other rows change no result.
OPEN_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 2, "width": 24, "head_width": 8},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "layers": 2, "width": 16, "heads": 2},
}
CLIP_CONFIG = {
    "model_type": "clip",
    "projection_dim": 12,
    "text_config": {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "hidden_act": "quick_gelu"},
    "vision_config": {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "hidden_act": "quick_gelu"},
}
PREPROCESSOR = {
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "resample": 2,
    "size": {"shortest_edge": 16},
}


def image() -> Tensor:
    """``float[1, 3, 16, 16]``, normalised pixels."""
    return torch.sin(torch.arange(3 * 16 * 16, dtype=torch.float64) * 0.37).float().reshape(1, 3, 16, 16)


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Parameters that follow from their place in the sorted list of names."""
    state = {}
    for place, (name, shape) in enumerate(sorted(shapes.items())):
        count = int(torch.tensor(shape).prod()) if shape else 1
        wave = torch.sin(torch.arange(count, dtype=torch.float64) * (0.7 + 0.013 * place) + place) * 0.3
        state[name] = wave.float().reshape(shape)
        if ("norm" in name and name.endswith("weight")) or "layrnorm.weight" in name:
            state[name] += 1
    return state


def clip_state(vocabulary: int = 49408) -> dict[str, Tensor]:
    """A CLIP of two layers per tower."""
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "text_projection.weight": (12, 16),
        "visual_projection.weight": (12, 24),
        "vision_model.embeddings.class_embedding": (24,),
        "vision_model.embeddings.position_embedding.weight": (5, 24),
        "vision_model.embeddings.patch_embedding.weight": (24, 3, 8, 8),
        **_norm("vision_model.pre_layrnorm", 24),
        **_norm("vision_model.post_layernorm", 24),
        **_text(16, vocabulary),
        **_layers("vision_model", 24),
    }
    return filled(shapes)


def siglip_state() -> dict[str, Tensor]:
    """A SigLIP of two layers per tower."""
    head = "vision_model.head"
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (1,),
        "logit_bias": (1,),
        "vision_model.embeddings.position_embedding.weight": (4, 24),
        **_linear("vision_model.embeddings.patch_embedding", (24, 3, 8, 8)),
        **_norm("vision_model.post_layernorm", 24),
        f"{head}.probe": (1, 1, 24),
        f"{head}.attention.in_proj_weight": (72, 24),
        f"{head}.attention.in_proj_bias": (72,),
        **_linear(f"{head}.attention.out_proj", (24, 24)),
        **_norm(f"{head}.layernorm", 24),
        **_linear(f"{head}.mlp.fc1", (96, 24)),
        **_linear(f"{head}.mlp.fc2", (24, 96)),
        **_linear("text_model.head", (24, 24)),
        **_text(24, 60),
        **_layers("vision_model", 24),
    }
    return filled(shapes)


def _text(width: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    return {
        "text_model.embeddings.token_embedding.weight": (vocabulary, width),
        "text_model.embeddings.position_embedding.weight": (CONTEXT, width),
        **_norm("text_model.final_layer_norm", width),
        **_layers("text_model", width),
    }


def _layers(tower: str, width: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for layer in range(2):
        prefix = f"{tower}.encoder.layers.{layer}"
        for name in ("k_proj", "out_proj", "q_proj", "v_proj"):
            found |= _linear(f"{prefix}.self_attn.{name}", (width, width))
        found |= _norm(f"{prefix}.layer_norm1", width) | _norm(f"{prefix}.layer_norm2", width)
        found |= _linear(f"{prefix}.mlp.fc1", (4 * width, width)) | _linear(f"{prefix}.mlp.fc2", (width, 4 * width))
    return found


def _linear(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return _linear(name, (width,))


def write_clip(folder: Path, config: dict[str, Any] | None = None, sharded: bool = False) -> None:
    """Writes the CLIP in transformers' layout, and open_clip's config of it as ``model.json`` next to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    state = clip_state()
    # Files of older releases hold the buffers of positions too.
    state["text_model.embeddings.position_ids"] = torch.arange(CONTEXT)[None]
    (folder.parent / "model.json").write_text(json.dumps(OPEN_CLIP))
    (folder / "config.json").write_text(json.dumps(config or CLIP_CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    if not sharded:
        save_file(state, folder / "model.safetensors")
        return
    files = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(sorted(state))}
    for file in set(files.values()):
        save_file({name: state[name] for name in state if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
