"""What every registered method must keep, checked for all of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from tiny_backbone import FRAMES, TEXTS, WORDS, clips, make_backbone
from torch.nn import functional as F

from components.backbones.clip import Backbone
from components.backbones.weights import weights_sha256
from components.methods import METHODS
from components.methods.base import Method, build

BACKBONE = make_backbone(learned_positions=True)
NAMES = list(METHODS)
TRAINED = [name for name in NAMES if name != "zero_shot"]


def raw_settings(name: str) -> dict[str, Any]:
    """Default settings; the learning rate has none."""
    return {"lr": 1e-2} if "lr" in {field.name for field in fields(METHODS.get(name).Settings)} else {}


def make(name: str, backbone: Backbone = BACKBONE, moved: bool = True, **changes: Any) -> Method:
    """A method on the tiny backbone; ``moved`` shakes its parameters, so that zeros at the start hide nothing."""
    torch.manual_seed(11)
    method = build(name, {**raw_settings(name), **changes}, backbone, frames=FRAMES, words=WORDS)
    if moved:
        with torch.no_grad():
            for parameter in method.trainable().values():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method


def loss(method: Method) -> torch.Tensor:
    video, text = method(*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    return F.cross_entropy(method.logit_scale * text @ video.T, torch.arange(4))


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_are_unit_vectors_of_the_joint_space(name: str) -> None:
    video, text = make(name)(*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    assert video.shape == text.shape == (4, BACKBONE.spec.embed_dim)
    assert torch.allclose(torch.cat([video, text]).norm(dim=-1), torch.ones(8), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_start_is_clip_itself_or_says_it_is_not(name: str) -> None:
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    method = make(name, moved=False)
    for ours, plain in zip(method(*inputs), make("zero_shot")(*inputs), strict=True):
        assert bool((ours - plain).abs().max() <= 1e-6) is method.starts_as_identity


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_reach_every_trainable_parameter(name: str) -> None:
    method = make(name, train_logit_scale=True)
    loss(method).backward()
    without = [key for key, p in method.trainable().items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("name", TRAINED)
def test_training_leaves_the_backbone_bit_identical(name: str) -> None:
    backbone = make_backbone(learned_positions=True)
    before = weights_sha256(backbone)
    method = make(name, backbone, moved=False)
    start = {key: p.detach().clone() for key, p in method.trainable().items()}
    frozen = {key: p.detach().clone() for key, p in method.named_parameters() if not p.requires_grad}
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3, weight_decay=0.1)
    first = loss(method)
    for _ in range(5):
        optimiser.zero_grad()
        loss(method).backward()
        optimiser.step()
    assert loss(method) < first
    assert weights_sha256(backbone) == before == backbone.spec.weights_sha256
    assert all(torch.equal(dict(method.named_parameters())[key], value) for key, value in frozen.items())
    assert any(not torch.equal(method.trainable()[key], value) for key, value in start.items())


@pytest.mark.parametrize("name", NAMES)
@limits(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, FRAMES), min_size=1, max_size=4), seed=st.integers(0, 99), pad=st.booleans())
def test_padding_and_company_change_no_video(name: str, lengths: list[int], seed: int, pad: bool) -> None:
    method = make(name)
    longest = FRAMES if pad else max(lengths)
    frames, _ = clips(BACKBONE, len(lengths), longest, seed)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together = method.encode_video(torch.where(mask[..., None, None, None], frames, frames * 50 + 7), mask)
        for i, length in enumerate(lengths):
            alone = method.encode_video(frames[i : i + 1, :length], mask[i : i + 1, :length])
            assert (alone[0] - together[i]).abs().max() <= 5e-6


@pytest.mark.parametrize("name", NAMES)
@limits(max_examples=15, deadline=None)
@given(chosen=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5), words=st.integers(11, WORDS))
def test_padding_and_company_change_no_text(name: str, chosen: list[str], words: int) -> None:
    method = make(name)
    with torch.no_grad():
        together = method.encode_text(BACKBONE.tokenize(chosen, words))
        for i, text in enumerate(chosen):
            alone = method.encode_text(BACKBONE.tokenize([text], WORDS))
            assert (alone[0] - together[i]).abs().max() <= 5e-6


@pytest.mark.parametrize("name", NAMES)
def test_frame_order_matters_only_to_temporal_methods(name: str) -> None:
    method = make(name)
    frames = clips(BACKBONE)[0]
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    change = (method.encode_video(frames, mask) - method.encode_video(frames.flip(1), mask)).abs().max()
    assert change > 1e-4 if method.temporal else change <= 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_autocast_is_near(name: str) -> None:
    method = make(name)
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    with torch.no_grad():
        exact = method(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = method(*inputs)
    for a, b in zip(exact, rough, strict=True):
        assert F.cosine_similarity(a, b.float(), dim=-1).min() > 0.98


@pytest.mark.parametrize("name", NAMES)
def test_trainable_names_are_sorted_and_stable(name: str) -> None:
    method = make(name)
    assert list(method.trainable()) == sorted(method.trainable())
    assert list(method.trainable()) == list(make(name).trainable())
    assert all(parameter.requires_grad for parameter in method.trainable().values())


@pytest.mark.parametrize("name", TRAINED)
def test_logit_scale_trains_only_where_asked(name: str) -> None:
    assert "log_scale" not in make(name).trainable()
    assert not any("logit_scale" in key for key in make(name).trainable())
    method = make(name, train_logit_scale=True, moved=False)
    assert "log_scale" in method.trainable()
    assert torch.allclose(method.logit_scale, BACKBONE.logit_scale.exp())
