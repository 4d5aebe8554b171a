"""The rows of the test matrix: every registered method, and every variant that runs other code."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from tiny_backbone import FRAMES, WORDS, make_backbone

from components.backbones.clip import Backbone
from components.methods import METHODS
from components.methods.base import Method
from components.methods.build import build, method_class

# With learned positions, full fine-tuning trains everything.
BACKBONE = make_backbone(learned_positions=True)

# Changes that fit the defaults of a method to so small a tower.
NEEDED: dict[str, dict[str, Any]] = {
    "seq_transf": {"start": "random"},
    "coop": {"prompts": 4},
    "cm_adapter": {"shared": 4},
    "tempme": {"groups": [2, 3]},
    "discovla": {"fusion_layers": 2},
    "stop": {"regions": 2, "dropout": 0.0, "hidden": 3},
}

VARIANTS: dict[str, dict[str, Any]] = {
    "partial 2": {"method": "partial", "layers": 2},
    "bias and logit scale": {"method": "bias", "train_logit_scale": True},
    "st_adapter 3x3x3": {"method": "st_adapter", "kernel": [3, 3, 3], "bottleneck": 8},
    "st_adapter without text": {"method": "st_adapter", "text_bottleneck": 0},
    "convpass next to the mlp": {"method": "convpass", "places": ["mlp"], "bottleneck": 4},
    "adapter_ffn some layers": {"method": "adapter_ffn", "vision_layers": [-1], "text_layers": [0, 2]},
    "cm_adapter unshared": {"method": "cm_adapter", "shared": 0},
    "lora everywhere": {"method": "lora", "targets": ["qkv", "out", "fc", "proj"], "rank": 2, "alpha": 4.0},
    "tempme one group": {"method": "tempme", "groups": [5], "merge_layers": [0], "image_merge": 1, "token_share": 0.4},
    "tempme last layer": {"method": "tempme", "groups": [3, 2], "merge_layers": [1, 2], "targets": ["out", "fc"]},
    "discovla last layer": {"method": "discovla", "fusion_layers": 1, "bottleneck": 3, "rank": 2},
    "lora+late mean": {"method": ["lora", "late"], "late": {"weights": "mean"}},
    "lora+late": {"method": ["lora", "late"]},
    "dgl transformer": {"method": "dgl", "generator": "transformer", "frame_prompts": 2, "global_prompts": 1},
    "dgl postfix": {"method": "dgl", "postfix": True, "global_prompts": 3},
    "stop released": {"method": "stop", "regions": 1, "grid": "released", "dropout": 0.0, "hidden": 2, "bottleneck": 0},
    "dora everywhere": {"method": "dora", "targets": ["qkv", "out", "fc", "proj"], "rank": 2, "alpha": 4.0},
    "ia3 some layers": {"method": "ia3", "vision_layers": [-1], "text_layers": [0, 2]},
    "vpt shallow": {"method": "vpt", "depth": "shallow"},
    "vop released text": {"method": "vop", "text_layout": "released"},
    "vop plain mean": {"method": "vop", "normalize_frames": False},
    "vop some layers": {"method": "vop", "video_layers": [1], "text_layers": [0, 2]},
    "vop video only": {"method": "vop", "text_prompts": 0},
    "vop text only": {"method": "vop", "video_prompts": 0},
    "vop_p all specific": {"method": "vop_p", "position_prompts": 8},
    "vop_p some layers": {"method": "vop_p", "video_layers": [1, 2]},
    "vop_c all specific": {"method": "vop_c", "context_prompts": 8},
    "vop_c lstm": {"method": "vop_c", "context_module": "lstm", "context_width": 8},
    "vop_c transformer": {"method": "vop_c", "context_module": "transformer", "context_depth": 2},
    "vop_c later layers": {"method": "vop_c", "video_layers": [1, 2]},
    "vop_f all joint": {"method": "vop_f", "intra_layers": 0},
    "vop_f some layers": {"method": "vop_f", "intra_layers": 1, "video_layers": [0, 2]},
    "vop_f without prompts": {"method": "vop_f", "video_prompts": 0},
    "mv_adapter paper": {"method": "mv_adapter", "form": "paper"},
    "mv_adapter par": {"method": "mv_adapter", "placement": "par"},
    "mv_adapter ln_par": {"method": "mv_adapter", "placement": "ln_par"},
    "mv_adapter pca": {"method": "mv_adapter", "patch_pooling": "pca"},
    "mv_adapter full text": {"method": "mv_adapter", "text_attention": "full"},
    "mv_adapter bare": {"method": "mv_adapter", "positions": False, "cc_map": False, "tie_bias": False},
    "mv_adapter patches": {"method": "mv_adapter", "calibrate": ["class", "patch"], "input_norm": True},
    "mv_adapter without cc": {"method": "mv_adapter", "cc": False, "tie": "up_out"},
    "mv_adapter tied 0 and 2": {"method": "mv_adapter", "tied_layers": [0, 2], "tie": "down_in_class"},
    "mv_adapter and biases": {"method": "mv_adapter", "train_biases": True, "bias_lr": 1e-4},
    "vop+mv_adapter": {"method": ["vop", "mv_adapter"]},
    "vop_fc+mv_adapter": {"method": ["vop_fc", "mv_adapter"]},
    "vop_fpc+lora+seq_transf": {"method": ["vop_fpc", "lora", "seq_transf"], "seq_transf": {"start": "random"}},
    "coop+vpt": {"method": ["coop", "vpt"], "coop": {"prompts": 4}, "train_logit_scale": True},
    "bias+st_adapter+convpass": {"method": ["bias", "st_adapter", "convpass"]},
    "tempme+lora+cm_adapter": {"method": ["tempme", "lora", "cm_adapter"], "tempme": {"groups": [2, 3]},
                               "lora": {"targets": ["out", "proj"]}, "cm_adapter": {"shared": 4}},
    "vop_f+discovla": {"method": ["vop_f", "discovla"], "discovla": {"fusion_layers": 3}},
    "cm_adapter+vop_f": {"method": ["vop_f", "cm_adapter"], "cm_adapter": {"shared": 4}},
}  # fmt: skip

RAW: dict[str, dict[str, Any]] = {**{name: NEEDED.get(name, {}) for name in METHODS}, **VARIANTS}
NAMES = list(RAW)
TRAINED = [name for name in NAMES if name != "zero_shot"]


def raw_settings(name: str) -> dict[str, Any]:
    """An entry of ``methods`` as in params.yaml, with a learning rate, which has no default."""
    raw = dict(RAW[name])
    method = raw.get("method", name)
    trains = not isinstance(method, str) or "lr" in {field.name for field in fields(method_class(method).Settings)}
    return {"lr": 1e-2, **raw} if trains else raw


def make(name: str, backbone: Backbone = BACKBONE, moved: bool = True, **changes: Any) -> Method:
    """Builds a method on the tiny backbone. ``moved`` adds noise, so that parameters that start at zero take part."""
    torch.manual_seed(11)
    method = build(name, {**raw_settings(name), **changes}, backbone, frames=FRAMES, words=WORDS)
    if moved:
        with torch.no_grad():
            for parameter in method.trainable().values():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method
