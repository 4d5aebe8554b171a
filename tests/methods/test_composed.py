"""Several methods in one model: settings, names, learning rates, and combinations that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_backbone import FRAMES, TEXTS, WORDS, clips
from torch.nn import functional as F
from variants import BACKBONE, make

from components.errors import ConfigError
from components.methods.base import Method
from components.methods.build import build
from components.methods.composed import Composed


def composed(methods: list[str], **raw: Any) -> Method:
    return build("mine", {"method": methods, **raw}, BACKBONE, frames=FRAMES, words=WORDS)


def test_name_parts_and_learning_rates() -> None:
    adapter = {"lr": 1e-2, "train_biases": True, "bias_lr": 1e-5}
    model = composed(["vop", "mv_adapter"], vop={"lr": 1e-3}, mv_adapter=adapter)
    assert isinstance(model, Composed)
    assert model.name == "vop+mv_adapter"
    names = list(model.trainable())
    rates = model.learning_rates()
    assert set(rates) == set(names)
    assert {rates[name] for name in names if name.startswith("parts.vop.")} == {1e-3}
    assert {rates[name] for name in names if name.startswith("parts.mv_adapter.")} == {1e-2}
    assert {rates[name] for name in names if name.startswith("backbone.")} == {1e-5}
    assert all(name.endswith("bias") for name in names if name.startswith("backbone."))


def test_one_learning_rate_for_all_parts() -> None:
    assert set(composed(["vop", "lora"], lr=2e-3).learning_rates().values()) == {2e-3}


def test_parts_that_touch_different_towers_add_up() -> None:
    # CoOp acts only on texts and VPT only on frames, so each tower of the pair equals that of one method.
    model = composed(["coop", "vpt"], lr=1e-3, coop={"prompts": 4})
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    video, text = model(*inputs)
    parts = dict(zip(("coop", "vpt"), model.members(), strict=True))  # type: ignore[operator]
    assert torch.equal(video, parts["vpt"].encode_video(*inputs[:2]))
    assert torch.equal(text, parts["coop"].encode_text(inputs[2]))


def test_untrained_adapters_with_prompts_change_nothing() -> None:
    model: Any = composed(["vop_fc", "mv_adapter"], lr=1e-3)
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    for both, single in zip(model(*inputs), model.members()[0](*inputs), strict=True):
        assert (both - single).abs().max() <= 1e-6
    with torch.no_grad():
        for parameter in model.members()[1].trainable().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(model(*inputs), model.members()[0](*inputs), strict=True))


def test_adapters_see_frames_in_a_joint_layout() -> None:
    # In joint layers, a token-wise adapter must find the same tokens as in the frame-by-frame layout. With one frame
    # and no prompts, the two layouts are equal.
    frames, _ = clips(BACKBONE, frames=1)
    mask = torch.ones(4, 1, dtype=torch.bool)
    joint = make("cm_adapter+vop_f")
    single = make("cm_adapter")
    settings = {"method": ["vop_f", "cm_adapter"], "lr": 1e-3, "vop_f": {"video_prompts": 0, "text_prompts": 0},
                "cm_adapter": {"shared": 4}}  # fmt: skip
    both: Any = build("x", settings, BACKBONE, frames=FRAMES, words=WORDS)
    both.members()[1].load_state_dict(single.state_dict(), strict=False)
    assert (both.encode_video(frames, mask) - single.encode_video(frames, mask)).abs().max() <= 1e-6
    assert (joint.encode_video(frames, mask) - single.encode_video(frames, mask)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"method": []}, "methods.mine.method: not a method"),
        ({"method": ["vop", "vop"]}, "different names"),
        ({"method": 3}, "methods.mine.method: not a method"),
        ({"method": ["vop", "mv_adaptor"], "lr": 1e-3}, "did you mean 'mv_adapter'"),
        ({"method": ["vop", "lora"], "vop": {"lr": 1e-3}}, r"(?s)methods.mine.lora.*lr: missing"),
        ({"method": ["vop", "lora"], "lr": 1e-3, "lora": {"rnk": 2}}, r"did you mean 'rank'"),
        ({"method": ["vop", "lora"], "lr": 1e-3, "bias": {}}, "bias: unknown key"),
        ({"method": ["vop", "lora"], "lr": 1e-3, "vop": 3}, "parts are not settings"),
        ({"method": ["bias", "partial"], "lr": 1e-3}, "two parts train the same weights"),
        ({"method": ["vop", "lora"], "lr": 1e-3, "lora": {"train_logit_scale": True}}, "next to the parts"),
        (
            {
                "method": ["seq_transf", "mv_adapter"],
                "lr": 1e-3,
                "seq_transf": {"start": "random"},
                "mv_adapter": {"form": "paper"},
            },
            "two parts replace the pooling of frames",
        ),
    ],
)
def test_what_cannot_be_combined(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("mine", raw, BACKBONE, frames=FRAMES, words=WORDS)


def test_training_one_part_leaves_the_shared_backbone_alone() -> None:
    model = composed(["bias", "vop"], lr=1e-2)
    before = {name: p.detach().clone() for name, p in BACKBONE.named_parameters()}
    optimiser = torch.optim.SGD(model.trainable().values(), lr=0.1)
    video, text = model(*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    F.cross_entropy(text @ video.T, torch.arange(4)).backward()
    optimiser.step()
    assert all(torch.equal(p, before[name]) for name, p in BACKBONE.named_parameters())
    assert any(not torch.equal(p, before[name]) for name, p in model.backbone.named_parameters())
