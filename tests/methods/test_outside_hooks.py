"""A method from outside that acts inside the towers: equal to shifted biases, trained, composed and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_backbone import FRAMES, TEXTS, WORDS, clips, make_backbone
from torch.nn import functional as F
from variants import BACKBONE, make

from components.adapters.file import load_adapter, save_adapter
from components.backbones.towers import checkpointed
from components.methods.base import Method
from components.methods.build import build

INPUTS = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def shifted(**settings: Any) -> Any:
    """A model of this method, with random parameters."""
    raw = {"method": "shift_method:Shift", "lr": 1e-2, **settings}
    method = build("mine", raw, BACKBONE, frames=FRAMES, words=WORDS)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in method.trainable().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return method


def by_hand(shift: Any, ia3: Any = None) -> Method:
    """Plain CLIP with the shifts in its biases, and the scales of ``ia3`` in the weights before."""
    backbone = make_backbone(learned_positions=True)
    with torch.no_grad():
        for side, tower in (("video", backbone.vision), ("text", backbone.text)):
            blocks: Any = tower.layers.blocks
            for i, block in enumerate(blocks):
                block.mlp.c_proj.bias.add_(getattr(shift, side)[i])
                if ia3 is not None:
                    scales = getattr(ia3, side)[str(i)]
                    rows = torch.cat([torch.ones_like(scales.k), scales.k, scales.v])
                    block.attn.in_proj_weight.mul_(rows[:, None])
                    block.attn.in_proj_bias.mul_(rows)
                    block.mlp.c_proj.weight.mul_(scales.ff)
    return build("zero_shot", {}, backbone, frames=FRAMES, words=WORDS)


def test_equals_biases_shifted_by_hand() -> None:
    shift, plain = shifted(), make("zero_shot")
    for ours, theirs, start in zip(shift(*INPUTS), by_hand(shift)(*INPUTS), plain(*INPUTS), strict=True):
        assert (ours - theirs).abs().max() <= 1e-6
        assert (ours - start).abs().max() > 1e-2


def test_composes_with_a_method_of_the_project() -> None:
    both = shifted(method=["shift_method:Shift", "ia3"])
    shift, ia3 = both.members()
    for ours, theirs in zip(both(*INPUTS), by_hand(shift, ia3)(*INPUTS), strict=True):
        assert (ours - theirs).abs().max() <= 1e-6


def test_same_gradients_with_activation_checkpointing() -> None:
    shift, gradients = shifted(), []
    for on in (False, True):
        shift.zero_grad()
        with checkpointed(shift, on):
            video, text = shift(*INPUTS)
        F.cross_entropy(shift.logit_scale * text @ video.T, torch.arange(4)).backward()
        gradients.append([p.grad.clone() for p in shift.trainable().values() if p.grad is not None])
    assert len(gradients[0]) == 2
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_saved_and_loaded(tmp_path: Path) -> None:
    shift = shifted()
    save_adapter(tmp_path, shift, task="t", provenance={})
    for ours, theirs in zip(load_adapter(tmp_path, BACKBONE)(*INPUTS), shift(*INPUTS), strict=True):
        assert torch.equal(ours, theirs)
