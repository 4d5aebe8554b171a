"""IA3 and DoRA are weights of CLIP, alone and with other methods. Their settings choose places.

tests/parity/test_golden_peft.py compares both with peft.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_backbone import FRAMES, TEXTS, WORDS, clips, make_backbone
from variants import BACKBONE, make

from components.backbones.clip import Backbone
from components.errors import ConfigError
from components.methods.base import Method
from components.methods.build import build

INPUTS = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
DORA = {"targets": ["qkv", "out", "fc", "proj"], "rank": 2, "alpha": 3.0}
LORA = {"targets": ["qkv", "proj"], "rank": 2}


def moved(raw: dict[str, Any]) -> Any:
    torch.manual_seed(4)
    method = build("mine", {"lr": 1e-2, **raw}, BACKBONE, frames=FRAMES, words=WORDS)
    with torch.no_grad():
        for parameter in method.trainable().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return method


def maps(backbone: Backbone, side: str, i: int) -> dict[str, tuple[Any, Any]]:
    tower: Any = backbone.vision if side == "video" else backbone.text
    attn, mlp = tower.layers.blocks[i].attn, tower.layers.blocks[i].mlp
    return {
        "qkv": (attn.in_proj_weight, attn.in_proj_bias),
        "out": (attn.out_proj.weight, attn.out_proj.bias),
        "fc": (mlp.c_fc.weight, mlp.c_fc.bias),
        "proj": (mlp.c_proj.weight, mlp.c_proj.bias),
    }


@torch.no_grad()
def merged(parts: list[Any]) -> Method:
    """Plain CLIP with the weights that each part, in order, makes of those before it."""
    backbone = make_backbone(learned_positions=True)
    for part in parts:
        for side in ("video", "text"):
            for i, layer in getattr(part, side).items():
                merge(part, layer, maps(backbone, side, int(i)), maps(BACKBONE, side, int(i)))
    return build("zero_shot", {}, backbone, frames=FRAMES, words=WORDS)


def merge(part: Any, layer: Any, ours: dict[str, Any], original: dict[str, Any]) -> None:
    if part.name == "ia3":
        rows = torch.cat([torch.ones_like(layer.k), layer.k, layer.v])
        ours["qkv"][0].mul_(rows[:, None])
        ours["qkv"][1].mul_(rows)
        ours["proj"][0].mul_(layer.ff)
    for target, update in layer.items() if part.name in ("lora", "dora") else ():
        weight, bias = ours[target]
        low_rank = update.update if part.name == "dora" else update
        delta = part.settings.factor * low_rank.b @ low_rank.a
        weight.add_(delta)
        if part.name == "dora":
            scale = update.magnitude / (original[target][0] + delta).norm(dim=1)
            weight.mul_(scale[:, None])
            bias.copy_(original[target][1] + scale * (bias - original[target][1]))


@pytest.mark.parametrize(
    "raw",
    [
        {"method": "ia3"},
        {"method": "ia3", "vision_layers": [-1], "text_layers": [0, 2]},
        {"method": "dora", **DORA},
        {"method": "dora", **DORA, "vision_layers": [1], "text_layers": []},
        {"method": ["lora", "ia3"], "lora": LORA},
        {"method": ["lora", "dora"], "lora": LORA, "dora": DORA},
        {"method": ["dora", "lora", "ia3"], "lora": {"rank": 2}, "dora": DORA},
        {"method": ["ia3", "dora"], "dora": {**DORA, "targets": ["qkv"]}},
    ],
    ids=lambda raw: str(raw["method"]),
)
def test_equals_merged_weights(raw: dict[str, Any]) -> None:
    method = moved(raw)
    by_hand = merged(method.members() if isinstance(raw["method"], list) else [method])
    with torch.no_grad():
        for ours, theirs in zip(method(*INPUTS), by_hand(*INPUTS), strict=True):
            assert (ours - theirs).abs().max() <= 2e-6
        assert (method(*INPUTS)[0] - make("zero_shot")(*INPUTS)[0]).abs().max() > 1e-2


@pytest.mark.parametrize("raw", [{"method": "ia3"}, {"method": "dora", **DORA}])
def test_start_is_clip_to_the_bit(raw: dict[str, Any]) -> None:
    method = build("mine", {"lr": 1e-2, **raw}, BACKBONE, frames=FRAMES, words=WORDS)
    for half in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            for ours, plain in zip(method(*INPUTS), make("zero_shot")(*INPUTS), strict=True):
                assert torch.equal(ours, plain)


def test_the_norm_has_no_gradient() -> None:
    """Growing a magnitude alone moves y as the paper's equation says, and B's gradient is m / |V| times LoRA's."""
    dora: Any = moved({"method": "dora", **DORA})
    direction = dora.video["0"]["out"]
    x, y = torch.randn(5, 32), torch.randn(5, 32)
    weight, bias = maps(BACKBONE, "video", 0)["out"]
    direction(x, y, weight, bias, 1.5).sum().backward()
    norms = (weight + 1.5 * direction.update.b @ direction.update.a).norm(dim=1)
    expected = (direction.magnitude / norms)[:, None] * 1.5 * (x @ direction.update.a.T).sum(0)
    assert torch.allclose(direction.update.b.grad, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"method": "ia3", "vision_layers": [], "text_layers": []}, "both empty: nothing would train"),
        ({"method": "dora", "vision_layers": [], "text_layers": []}, "both empty: nothing would train"),
        (
            {"method": "ia3", "vision_layers": [3]},
            r"methods.ia3.vision_layers: layer index out of range; found \[3\]; expected 0 to 2",
        ),
        ({"method": "dora", "text_layers": [-4]}, r"methods.dora.text_layers: layer index out of range; found \[-4\]"),
        ({"method": "dora", "targets": []}, "targets is empty: nothing would train"),
    ],
)
def test_settings_that_cannot_work(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        build("mine", {"lr": 1e-2, **raw}, BACKBONE, frames=FRAMES, words=WORDS)
