"""MV-Adapter against the authors' released code: every released configuration, and every variant that it can run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden import MAX_FRAMES, WORDS, arrays, check_outputs, close_gradient, golden_backbone, train_clip
from torch import Tensor

from components.methods.base import Method
from components.methods.build import build

BASE: dict[str, Any] = {
    "lr": 1e-3, "bottleneck": 16, "text_bottleneck": 12, "factor": 8, "tied_layers": 2, "tie": "down_out",
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "case02_mv_down_out": {},
    "case03_mv_down_in": {"tie": "down_in"},
    "case04_mv_input_norm_padded": {"tie": "down_in", "tied_layers": 1, "input_norm": True},
    "case05a_mv_cls_and_patch_calibration": {"calibrate": ["class", "patch"]},
    "case05b_mv_no_cc": {"cc": False},
    "case05c_mv_no_cc_cls_and_patch": {"cc": False, "calibrate": ["class", "patch"]},
    "case05d_mv_no_calibration": {"calibrate": []},
    "case05e_mv_tie_up_in": {"tie": "up_in"},
    "case05f_mv_tie_up_out": {"tie": "up_out"},
    "case05g_mv_tie_down_out_cls": {"tie": "down_out_class"},
    "case05h_mv_untied_some_layers": {"tied_layers": 0, "vision_layers": [1, 2], "text_layers": [1, 2]},
}
RENAMED = {
    "position_embedding": "positions",
    "cc_token": "cc",
    "calibration_cls": "calibration.class",
    "calibration_patch": "calibration.patch",
    "cc_map": "g",
    "bottleneck_norm": "norm",
    "block.attn.in_proj_weight": "block.qkv.weight",
    "block.attn.in_proj_bias": "block.qkv.bias",
    "block.attn.out_proj": "block.out",
    "block.mlp.": "block.",
    "tie_projection": "tie",
    "video_adapter": "video",
    "text_adapter": "text",
}


def our_name(theirs: str, tied_layers: int) -> str:
    if theirs.startswith("shared_factor."):
        return f"factors.{tied_layers - 1 - int(theirs.removeprefix('shared_factor.'))}"
    for old, new in RENAMED.items():
        theirs = theirs.replace(old, new)
    return theirs


def our_rows(frames: int, cc: bool) -> tuple[list[int], list[int]]:
    """Position rows used for ``frames`` frames: ours, fixed per frame number, and theirs, packed from row 0."""
    start = int(cc)
    ours = [*range(start + frames), *range(start + MAX_FRAMES, start + MAX_FRAMES + frames)]
    return ours, list(range(len(ours)))


def expected(theirs: str, value: Tensor, like: Tensor, frames: int, cc: bool) -> Tensor:
    """Brings a reference weight or gradient into our shape."""
    if not (theirs.startswith("video_adapter") and theirs.endswith("position_embedding")):
        return value
    ours, packed = our_rows(frames, cc)
    placed = torch.zeros_like(like)
    placed[ours] = value[packed]
    return placed


def weights(case: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in case.items() if not name.startswith(("in.", "out.", "grad."))}


def fill(method: Method, case: dict[str, Tensor], frames: int) -> None:
    parameters = method.trainable()
    tied, cc = method.settings.tied_layers, method.settings.cc
    filled, unused = set(), []
    for theirs, value in weights(case).items():
        ours = our_name(theirs, tied)
        if ours not in parameters:
            unused.append(theirs)
            continue
        parameters[ours].data.copy_(expected(theirs, value, parameters[ours], frames, cc))
        filled.add(ours)
    assert filled == set(parameters)
    # The release has unused weights: the CC token without CC, and the text's tie if only class tokens are tied.
    for theirs in unused:
        assert case["grad." + theirs].abs().max() == 0, theirs


@pytest.mark.parametrize("name", CASES)
def test_outputs_loss_and_gradients(name: str) -> None:
    case = arrays(name)
    method = build("mv_adapter", {**BASE, **CASES[name]}, golden_backbone(), frames=MAX_FRAMES, words=WORDS)
    frames = case["in.video"].shape[1]
    fill(method, case, frames)
    clip = train_clip(method.backbone, case)
    parameters = {key: value for key, value in method.trainable().items() if not key.startswith("backbone.")}
    check_outputs(method, case).backward()
    compared = 0
    for theirs in weights(case):
        ours = our_name(theirs, method.settings.tied_layers)
        if ours in parameters:
            target = expected(theirs, case["grad." + theirs], parameters[ours], frames, method.settings.cc)
            gradient = parameters[ours].grad
            close_gradient(theirs, torch.zeros_like(target) if gradient is None else gradient, target)
            compared += 1
    assert compared == len(parameters)
    for theirs, parameter in clip.items():
        close_gradient(theirs, parameter.grad, case[theirs])


@pytest.mark.parametrize("change", [{"form": "paper"}, {"scale": 0.2}], ids=str)
def test_a_switch_changes_the_result(change: dict[str, Any]) -> None:
    # Without this, the comparisons above could pass although nothing reads the switch.
    case = arrays("case02_mv_down_out")
    embeddings = []
    for settings in (BASE, {**BASE, **change}):
        method = build("mv_adapter", settings, golden_backbone(), frames=MAX_FRAMES, words=WORDS)
        fill(method, case, 4)
        embeddings.append(method(case["in.video"], case["in.video_mask"].bool(), case["in.text"]))
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(*embeddings, strict=True))
