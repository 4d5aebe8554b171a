"""VoP's released layout against the authors' inference code, and the paper's layout against the released layout."""

from __future__ import annotations

import pytest
import torch
from golden import arrays, close, close_gradient, golden_backbone, symmetric_loss, train_clip
from torch import Tensor
from torch.nn import functional as F

from components.methods.base import Method
from components.methods.build import build

SUFFIX = {"case07a_vop_prefix_suffix": 2, "case07b_vop_prefix_only": 0}


def released(case: dict[str, Tensor], suffix: int) -> Method:
    settings = {"lr": 1e-2, "video_prompts": 3, "text_prompts": 4, "text_layout": "released", "suffix_prompts": suffix}
    method = build("vop", settings, golden_backbone(), frames=4, words=8)
    fill(method, case)
    return method


def fill(method: Method, case: dict[str, Tensor]) -> None:
    parameters = method.trainable()
    with torch.no_grad():
        parameters["generic_prompts"].copy_(case["video_prompts"].squeeze(1))
        parameters["text_prompts"].copy_(case["text_prompts"])


@pytest.mark.parametrize("name", SUFFIX)
def test_released_layout_outputs_loss_and_gradients(name: str) -> None:
    case = arrays(name)
    method = released(case, SUFFIX[name])
    gradients = train_clip(method.backbone, case)
    frames = case["in.video"]
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    features = method.frame_features(frames, mask)
    close("frame features", features, case["out.frame_features"])
    text = method.backbone.text(case["in.text"], method.text_hooks())
    close("text features", text, case["out.text_features"])
    pooled = F.normalize(features, dim=-1).mean(dim=1)
    close("video", pooled, case["out.video_features"])
    words = method.encode_text(case["in.text"])
    close("text", words, case["out.text_features_normalised"])
    logits = method.logit_scale * words @ pooled.T
    close("logits", logits, case["out.logits"])
    loss = symmetric_loss(logits)
    close("loss", loss, case["out.loss"])
    loss.backward()
    parameters = method.trainable()
    close_gradient("video prompts", parameters["generic_prompts"].grad, case["grad.video_prompts"].squeeze(1))
    close_gradient("text prompts", parameters["text_prompts"].grad, case["grad.text_prompts"])
    for clip, parameter in gradients.items():
        close_gradient(clip, parameter.grad, case[clip])


def test_paper_layout_is_the_prefix_form_but_for_positions() -> None:
    # With a zero position embedding in the text tower, the two layouts compute the same function.
    case = arrays("case07b_vop_prefix_only")
    theirs = released(case, 0)
    settings = {"lr": 1e-2, "video_prompts": 3, "text_prompts": 4}
    ours = build("vop", settings, golden_backbone(), frames=4, words=12)
    fill(ours, case)
    difference = (ours.encode_text(case["in.text"]) - theirs.encode_text(case["in.text"])).abs().max()
    assert difference > 1e-3
    for method in (theirs, ours):
        with torch.no_grad():
            method.backbone.text.positional_embedding.zero_()
    close("text", ours.encode_text(case["in.text"]), theirs.encode_text(case["in.text"]).detach())


def test_suffix_prompts_do_not_reach_a_short_text() -> None:
    # As released, the read-out column of a short text comes before the suffix, so it cannot see those prompts.
    case = arrays("case07a_vop_prefix_suffix")
    method = released(case, 2)
    before = method.backbone.text(case["in.text"], method.text_hooks())
    with torch.no_grad():
        method.trainable()["text_prompts"][:, 2:] = 0
    after = method.backbone.text(case["in.text"], method.text_hooks())
    changed = (before - after).abs().amax(dim=1)
    assert changed[[0, 3]].max() == 0
    assert changed[[1, 2]].min() > 0.5
