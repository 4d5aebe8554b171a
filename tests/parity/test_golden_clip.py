"""Plain CLIP with mean pooling, compared with the released code of CLIP4Clip and VoP."""

from __future__ import annotations

import torch
from golden import MAX_FRAMES, WORDS, arrays, check_outputs, close, close_gradient, golden_backbone, train_clip
from torch.nn import functional as F

from components.methods.build import build


def test_mean_pooling_with_padding_outputs_loss_and_gradients() -> None:
    case = arrays("case01_plain_meanp")
    backbone = golden_backbone()
    gradients = train_clip(backbone, case)
    method = build("zero_shot", {}, backbone, frames=MAX_FRAMES, words=WORDS)
    check_outputs(method, case).backward()
    assert len(gradients) >= 5
    for name, parameter in gradients.items():
        close_gradient(name, parameter.grad, case[name])


def test_full_fine_tuning_has_the_same_gradients() -> None:
    case = arrays("case01_plain_meanp")
    method = build("full", {"lr": 1e-4}, golden_backbone(), frames=MAX_FRAMES, words=WORDS)
    gradients = train_clip(method.backbone, case)
    check_outputs(method, case).backward()
    for name, parameter in gradients.items():
        close_gradient(name, parameter.grad, case[name])


def test_mean_of_normalised_frames_without_second_normalisation() -> None:
    case = arrays("case07c_series_plain")
    method = build("zero_shot", {}, golden_backbone(), frames=MAX_FRAMES, words=12)
    frames = case["in.video"]
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    features = method.frame_features(frames, mask)
    close("frame features", features, case["out.frame_features"])
    pooled = F.normalize(features, dim=-1).mean(dim=1)
    close("video", pooled, case["out.video_features"])
    close("normalised again", method.encode_video(frames, mask), F.normalize(case["out.video_features"], dim=-1))
    close("similarity", method.encode_text(case["in.text"]) @ pooled.T, case["out.similarity"])
