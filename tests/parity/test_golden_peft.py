"""IA3 and DoRA against peft 0.21.2, forward and backward. ``peft_reference.py`` made the arrays and has its command."""

from __future__ import annotations

import torch
from golden import MAX_FRAMES, WORDS, arrays, check_weighted_sum, close, golden_backbone, take_weights
from torch.nn import functional as F

from components.methods.base import Method
from components.methods.build import build

# peft's arithmetic differs in its order only: W x + B A x instead of one map, and three maps instead of a fused one.
ATOL = 1e-6


def check(method: Method, name: str) -> None:
    case, inputs = arrays(name), arrays("case01_plain_meanp")
    trained = take_weights(method, case)
    frames, mask = inputs["in.video"], torch.ones(4, 4, dtype=torch.bool)
    ours = F.normalize(method.frame_features(frames, mask).flatten(0, 1), dim=-1)
    text = method.encode_text(inputs["in.text"])
    check_weighted_sum({"frames": ours, "text": text}, case, ATOL)
    for key, parameter in trained.items():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key
        expected = case[f"grad.{key}"]
        close(key, parameter.grad, expected, ATOL + 1e-5 * float(expected.abs().max()))


def test_ia3() -> None:
    check(build("ia3", {"lr": 1e-3}, golden_backbone(), frames=MAX_FRAMES, words=WORDS), "peft_ia3")


def test_dora() -> None:
    raw = {"lr": 1e-3, "rank": 2, "alpha": 3.0, "targets": ["qkv", "out", "fc", "proj"]}
    layers = {"vision_layers": [0, 2], "text_layers": [0, 2]}
    check(build("dora", {**raw, **layers}, golden_backbone(), frames=MAX_FRAMES, words=WORDS), "peft_dora")
