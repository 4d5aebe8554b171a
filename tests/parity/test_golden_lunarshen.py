"""TempMe and DiscoVLA against their authors' released code, forward and backward (``make_lunarshen.py`` ran it)."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from golden import ATOL, arrays, close, close_gradient, golden_backbone, symmetric_loss
from make_lunarshen import FRAMES
from torch import Tensor

from components.methods.base import Method
from components.methods.build import build

CASES: dict[str, dict[str, Any]] = {
    "tempme": {"lr": 6e-4, "rank": 2, "groups": [2, 3], "merge_layers": [1, 2]},
    "discovla": {"lr": 6e-4, "rank": 2, "bottleneck": 2, "fusion_layers": 2},
}
RENAMED = {
    r"clip\.visual\.transformer\.resblocks\.(\d)\.attn\.TVPt_LoRA_(\w)": r"video.\1.qkv.\2",
    r"clip\.transformer\.resblocks\.(\d)\.attn\.TVPt_LoRA_(\w)": r"text.\1.qkv.\2",
    r"clip\.visual\.transformer\.resblocks\.(\d)\.attn\.TVPt_(down|up)_(\w+)": r"fusion.\1.\2.\3",
    r"clip\.visual\.transformer\.resblocks\.1\.TVPt_Video_Positional_embedding": "positions.0",
    r"clip\.visual\.transformer\.resblocks\.2\.TVPt_Video_Positional_embedding": "positions.1",
}
# The text tower's fusion acts on captions of single frames only.
UNUSED = r"clip\.transformer\.resblocks\.2\.attn\.TVPt_(down|up)_(weight|bias)"


def our_name(theirs: str) -> str | None:
    """The name of a weight of the release here; None if no embedding depends on it."""
    for pattern, ours in RENAMED.items():
        if re.fullmatch(pattern, theirs):
            return re.sub(pattern, ours, theirs)
    assert re.fullmatch(UNUSED, theirs), theirs
    return None


def load(name: str) -> tuple[Method, dict[str, Tensor]]:
    """The method with the release's weights, and the arrays of the case."""
    case = arrays(name)
    method = build(name, CASES[name], golden_backbone(), frames=FRAMES, words=10)
    parameters = method.trainable()
    ours = {theirs: our_name(theirs) for theirs in case if not theirs.startswith(("in.", "out.", "grad."))}
    assert sorted(filter(None, ours.values())) == sorted(parameters)
    with torch.no_grad():
        for theirs, mine in ours.items():
            if mine is not None:
                parameters[mine].copy_(case[theirs].reshape(parameters[mine].shape))
    return method, case


@pytest.mark.parametrize("name", CASES)
def test_the_release_gives_the_same(name: str) -> None:
    method, case = load(name)
    frames = case["in.video"].float()
    video, text = method(frames, torch.ones(frames.shape[:2], dtype=torch.bool), case["in.text"])
    close("video", video, case["out.video"], ATOL)
    close("text", text, case["out.text"], ATOL)
    loss = symmetric_loss(method.logit_scale * text @ video.T)
    close("loss", loss, case["out.loss"], 10 * ATOL)
    loss.backward()
    parameters, seen = method.trainable(), set()
    for theirs in case:
        if theirs.startswith("grad."):
            mine = our_name(theirs.removeprefix("grad."))
            assert mine is not None, f"{theirs} is said to get no gradient"
            close_gradient(theirs, parameters[mine].grad, case[theirs].reshape(parameters[mine].shape))
            seen.add(mine)
    assert seen == set(parameters)
