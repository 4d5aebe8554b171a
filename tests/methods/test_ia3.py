"""A method that scales keys, values and activations: equal to scaled weights, trained and saved from outside."""

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

HERE = Path(__file__).parent
INPUTS = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))


@pytest.fixture
def ia3(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The method with random scales."""
    monkeypatch.syspath_prepend(str(HERE))
    method = build("mine", {"method": "ia3_method:IA3", "lr": 1e-2}, BACKBONE, frames=FRAMES, words=WORDS)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in method.trainable().values():
            parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
    return method


def scaled_by_hand(ia3: Any, lora: Any = None) -> Method:
    """Plain CLIP with the scales, and the updates of ``lora``, in its weights."""
    backbone = make_backbone(learned_positions=True)
    towers = (("video", backbone.vision), ("text", backbone.text))
    with torch.no_grad():
        for side, tower in towers:
            blocks: Any = tower.layers.blocks
            for i, block in enumerate(blocks):
                scales = getattr(ia3, side)[i]
                rows = torch.cat([torch.ones_like(scales.k), scales.k, scales.v])
                block.attn.in_proj_weight.mul_(rows[:, None])
                block.attn.in_proj_bias.mul_(rows)
                if lora is not None:
                    updates = getattr(lora, side)[str(i)]
                    block.attn.in_proj_weight.add_(updates["qkv"].b @ updates["qkv"].a)
                    block.mlp.c_proj.weight.add_(updates["proj"].b @ updates["proj"].a)
                # The update of the second map reads the scaled activations.
                block.mlp.c_proj.weight.mul_(scales.ff)
    return build("zero_shot", {}, backbone, frames=FRAMES, words=WORDS)


def test_equals_weights_scaled_by_hand(ia3: Method) -> None:
    plain = make("zero_shot")
    for ours, theirs, start in zip(ia3(*INPUTS), scaled_by_hand(ia3)(*INPUTS), plain(*INPUTS), strict=True):
        assert (ours - theirs).abs().max() <= 1e-6
        assert (ours - start).abs().max() > 1e-2


def test_starts_as_clip_and_every_vector_trains(ia3: Method) -> None:
    with torch.no_grad():
        for parameter in ia3.trainable().values():
            parameter.fill_(1.0)
    video, text = ia3(*INPUTS)
    for ours, theirs in zip((video, text), make("zero_shot")(*INPUTS), strict=True):
        assert torch.equal(ours, theirs)
    F.cross_entropy(ia3.logit_scale * text @ video.T, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in ia3.trainable().values())


def test_same_gradients_with_activation_checkpointing(ia3: Method) -> None:
    gradients = []
    for on in (False, True):
        ia3.zero_grad()
        with checkpointed(ia3, on):
            video, text = ia3(*INPUTS)
        (video * text).sum().backward()
        gradients.append([p.grad.clone() for p in ia3.trainable().values() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_saved_and_loaded(ia3: Method, tmp_path: Path) -> None:
    save_adapter(tmp_path, ia3, task="t", provenance={})
    for ours, theirs in zip(load_adapter(tmp_path, BACKBONE)(*INPUTS), ia3(*INPUTS), strict=True):
        assert torch.equal(ours, theirs)


def test_composes_with_low_rank_updates(ia3: Any) -> None:
    settings = {"method": ["ia3_method:IA3", "lora"], "lr": 1e-2, "lora": {"rank": 2, "targets": ["qkv", "proj"]}}
    both: Any = build("both", settings, BACKBONE, frames=FRAMES, words=WORDS)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in both.trainable().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    scales, lora = both.members()
    by_hand = scaled_by_hand(scales, lora)
    for ours, theirs in zip(both(*INPUTS), by_hand(*INPUTS), strict=True):
        assert (ours - theirs).abs().max() <= 1e-6
