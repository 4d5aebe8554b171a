"""Checkpoints in the layout of Hugging Face's transformers: what their config says, and their names in open_clip's.

transformers keeps q, k and v apart, open_clip and timm fuse them in this order. Linear projections without a bias are
matrices that multiply from the right in open_clip, so they are transposed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.errors import BackboneError

QUICK_GELU = "quick_gelu"
# config.json leaves out what equals the classes' defaults.
_CLIP = {
    "text_config": {"num_attention_heads": 8, "hidden_act": QUICK_GELU, "layer_norm_eps": 1e-5},
    "vision_config": {"num_attention_heads": 12, "hidden_act": QUICK_GELU, "layer_norm_eps": 1e-5},
}
_SIGLIP = {
    part: {"num_attention_heads": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    for part in ("text_config", "vision_config")
}
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "clip": _CLIP,
    "metaclip_2": _CLIP,
    "siglip": _SIGLIP,
    "siglip2": _SIGLIP,
}
# PIL's number of a filter, and what SigLIP's image processor does if nothing is said.
_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
_SIGLIP_IMAGES = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "squash"}


@dataclass(frozen=True)
class TransformersConfig:
    """What a config.json says about the towers.

    Attributes:
        kind: ``model_type``, a key of :data:`DEFAULTS`.
        text, vision: The settings of each tower that the shapes of weights do not show: heads, activation, epsilon.
    """

    kind: str
    text: Mapping[str, Any]
    vision: Mapping[str, Any]

    @property
    def quick_gelu(self) -> bool:
        """Whether the MLPs use QuickGELU."""
        return bool(self.text["hidden_act"] == QUICK_GELU)


def parse_config(tree: Mapping[str, Any], where: Path) -> TransformersConfig:
    """Reads a config.json.

    Raises:
        BackboneError: It describes another kind of model.
    """
    kind = tree.get("model_type")
    if kind not in DEFAULTS:
        raise BackboneError(
            "unsupported model",
            where=where,
            found={"model_type": kind},
            expected=f"model_type {', '.join(DEFAULTS)}, or open_clip's layout with an open_clip_config.json",
        )
    towers: dict[str, dict[str, Any]] = {}
    for part, defaults in DEFAULTS[kind].items():
        # Old configs of CLIP say the same twice, and transformers lets the second one win.
        given = {**(tree.get(part) or {}), **(tree.get(f"{part}_dict") or {})}
        towers[part] = {name: given.get(name, default) for name, default in defaults.items()}
    text, vision = towers["text_config"], towers["vision_config"]
    if (text["hidden_act"] == QUICK_GELU) != (vision["hidden_act"] == QUICK_GELU):
        raise BackboneError(
            "only one tower uses QuickGELU",
            where=where,
            found={"text": text["hidden_act"], "vision": vision["hidden_act"]},
            expected="the same activation in both towers",
        )
    return TransformersConfig(kind, text, vision)


def preprocessing(kind: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's form of a preprocessor_config.json. Empty where nothing is said and CLIP's values hold.

    Args:
        kind: ``model_type``.
        tree: The content of the file, empty if there is none.
    """
    found: dict[str, Any] = dict(_SIGLIP_IMAGES) if kind.startswith("siglip") else {}
    names = {"image_mean": "mean", "image_std": "std"}
    found.update({ours: tuple(tree[theirs]) for theirs, ours in names.items() if tree.get(theirs)})
    if tree.get("resample") in _FILTERS:
        found["interpolation"] = _FILTERS[tree["resample"]]
    size = tree.get("size")
    if isinstance(size, dict):
        found["resize_mode"] = "shortest" if "shortest_edge" in size else "squash"
    return found


def check_towers(clip: nn.Module, config: TransformersConfig, where: Path) -> None:
    """Compares what the shapes of weights do not show: the number of heads and the epsilon of the normalisations.

    Args:
        clip: open_clip's model.
        config: What the weights' config says.
        where: The config, for messages.

    Raises:
        BackboneError: They differ.
    """
    text = getattr(clip, "text", None) or clip.transformer
    for part, tower, said in (("text", text, config.text), ("vision", clip.visual, config.vision)):
        modules = list(tower.modules())  # type: ignore[union-attr]
        heads = next((m.num_heads for m in modules if isinstance(getattr(m, "num_heads", None), int)), None)
        epsilon = next((m.eps for m in modules if isinstance(m, nn.LayerNorm)), None)
        ours = {"num_attention_heads": heads, "layer_norm_eps": epsilon}
        theirs = {name: said[name] for name in ours}
        if ours != theirs:
            raise BackboneError(
                f"the weights are of another architecture: the {part} tower differs",
                where=where,
                found=theirs,
                expected=f"{ours} as backbone.model has",
                cure="change backbone.model to the model that these weights are of",
            )


def to_open_clip(state: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The weights under open_clip's names: plain CLIP's, or for SigLIP those of timm's ViT in an open_clip model.

    Args:
        state: The tensors by transformers' names.
        where: The file, for messages.

    Raises:
        BackboneError: A tensor has no counterpart, or q, k or v is missing.
    """
    siglip = "logit_bias" in state
    if siglip and state.get("vision_model.embeddings.patch_embedding.weight", torch.empty(0)).ndim == 2:
        raise BackboneError(
            "unsupported backbone: its patches come in any number (NaFlex)",
            where=where,
            cure="take a SigLIP 2 of a fixed size, such as google/siglip2-base-patch16-224",
        )
    fused: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith("position_ids") or re.search(r"\.(k|v)_proj\.", name) or ".head.attention." in name:
            continue
        fused.update(_fused(name, value, state, where) if ".q_proj." in name else {name: value})
    if "vision_model.head.attention.in_proj_weight" in state:
        fused.update(_pool(state, where))
    names = _SIGLIP_NAMES if siglip else _CLIP_NAMES
    found: dict[str, Tensor] = {}
    for name, value in fused.items():
        for pattern, place, change in names:
            match = re.fullmatch(pattern, name)
            if match:
                found[match.expand(place)] = change(value)
                break
        else:
            raise BackboneError(
                "a tensor has no place in this layout",
                where=where,
                found=name,
                expected="a CLIP or SigLIP of transformers",
            )
    return found


def _fused(name: str, value: Tensor, state: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    parts = [value, *(state.get(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "kv")]
    present = [part for part in parts if part is not None]
    if len({part.shape for part in present}) != 1 or len(present) != 3:
        raise BackboneError("q, k and v do not belong together", where=where, found=name, expected="three equal shapes")
    return {name.replace(".q_proj.", ".qkv."): torch.cat(present)}


def _pool(state: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """SigLIP's attention pool. ``nn.MultiheadAttention`` fuses q, k and v, timm's pool only k and v."""
    prefix, found = "vision_model.head.attention.", {}
    for kind in ("weight", "bias"):
        value = state.get(f"{prefix}in_proj_{kind}")
        out = state.get(f"{prefix}out_proj.{kind}")
        if value is None or out is None or value.shape[0] % 3:
            raise BackboneError("the attention pool is incomplete", where=where, found=f"{prefix}in_proj_{kind}")
        width = value.shape[0] // 3
        found[f"{prefix}q.{kind}"], found[f"{prefix}kv.{kind}"] = value[:width], value[width:]
        found[f"{prefix}proj.{kind}"] = out
    return found


def _same(value: Tensor) -> Tensor:
    return value


def _transposed(value: Tensor) -> Tensor:
    return value.t()


def _first(value: Tensor) -> Tensor:
    return value.reshape(-1)[:1].reshape(())


_Rule = tuple[str, str, Callable[[Tensor], Tensor]]
_KIND = r"(weight|bias)"
_LAYER = r"encoder\.layers\.(\d+)\."


def _blocks(tower: str, place: str, names: Mapping[str, str]) -> list[_Rule]:
    return [(rf"{tower}\.{_LAYER}{theirs}", rf"{place}.\1.{ours}", _same) for theirs, ours in names.items()]


_OPEN_CLIP_BLOCK = {
    r"self_attn\.qkv\." + _KIND: r"attn.in_proj_\2",
    r"self_attn\.out_proj\." + _KIND: r"attn.out_proj.\2",
    r"layer_norm1\." + _KIND: r"ln_1.\2",
    r"layer_norm2\." + _KIND: r"ln_2.\2",
    r"mlp\.fc1\." + _KIND: r"mlp.c_fc.\2",
    r"mlp\.fc2\." + _KIND: r"mlp.c_proj.\2",
}
_TIMM_BLOCK = {
    r"self_attn\.qkv\." + _KIND: r"attn.qkv.\2",
    r"self_attn\.out_proj\." + _KIND: r"attn.proj.\2",
    r"layer_norm1\." + _KIND: r"norm1.\2",
    r"layer_norm2\." + _KIND: r"norm2.\2",
    r"mlp\.fc1\." + _KIND: r"mlp.fc1.\2",
    r"mlp\.fc2\." + _KIND: r"mlp.fc2.\2",
}
_CLIP_NAMES: list[_Rule] = [
    *_blocks("vision_model", "visual.transformer.resblocks", _OPEN_CLIP_BLOCK),
    *_blocks("text_model", "transformer.resblocks", _OPEN_CLIP_BLOCK),
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding", _same),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight", _same),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding", _same),
    (r"vision_model\.pre_layrnorm\." + _KIND, r"visual.ln_pre.\1", _same),  # the spelling is transformers'
    (r"vision_model\.post_layernorm\." + _KIND, r"visual.ln_post.\1", _same),
    (r"visual_projection\.weight", "visual.proj", _transposed),
    (r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight", _same),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding", _same),
    (r"text_model\.final_layer_norm\." + _KIND, r"ln_final.\1", _same),
    (r"text_projection\.weight", "text_projection", _transposed),
    (r"logit_scale", "logit_scale", _first),
]
_SIGLIP_NAMES: list[_Rule] = [
    *_blocks("vision_model", "visual.trunk.blocks", _TIMM_BLOCK),
    *_blocks("text_model", "text.transformer.resblocks", _OPEN_CLIP_BLOCK),
    (r"vision_model\.embeddings\.patch_embedding\." + _KIND, r"visual.trunk.patch_embed.proj.\1", _same),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.trunk.pos_embed", lambda v: v.unsqueeze(0)),
    (r"vision_model\.post_layernorm\." + _KIND, r"visual.trunk.norm.\1", _same),
    (r"vision_model\.head\.probe", "visual.trunk.attn_pool.latent", _same),
    (r"vision_model\.head\.attention\.(q|kv|proj)\." + _KIND, r"visual.trunk.attn_pool.\1.\2", _same),
    (r"vision_model\.head\.layernorm\." + _KIND, r"visual.trunk.attn_pool.norm.\1", _same),
    (r"vision_model\.head\.mlp\.fc(1|2)\." + _KIND, r"visual.trunk.attn_pool.mlp.fc\1.\2", _same),
    (r"text_model\.embeddings\.token_embedding\.weight", "text.token_embedding.weight", _same),
    (r"text_model\.embeddings\.position_embedding\.weight", "text.positional_embedding", _same),
    (r"text_model\.final_layer_norm\." + _KIND, r"text.ln_final.\1", _same),
    (r"text_model\.head\." + _KIND, r"text.text_projection.\1", _same),
    (r"logit_(scale|bias)", r"logit_\1", _first),
]
