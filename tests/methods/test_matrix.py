"""The promises of every method, checked for all registered methods and their variants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from tiny_backbone import FRAMES, TEXTS, WORDS, clips, make_backbone
from torch.nn import functional as F
from variants import BACKBONE, NAMES, TRAINED, make

from components.backbones.weights import weights_sha256
from components.methods.base import Method

# Embeddings of one vector per frame and per word.
PER_FRAME = ("late", "lora+late", "lora+late mean")


def loss(method: Method) -> torch.Tensor:
    video, text = method(*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    return F.cross_entropy(method.similarity.matrix(method.logit_scale * text, video), torch.arange(4))


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_are_unit_vectors_of_the_joint_space(name: str) -> None:
    method = make(name)
    video, text = method(*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    assert (video.shape, text.shape) == ((4, method.video_width), (4, method.text_width))
    if name in PER_FRAME:
        assert (method.video_width, method.text_width) == (24 * FRAMES, 24 * WORDS)
        assert torch.allclose(video.view(4, FRAMES, -1).norm(dim=-1), torch.ones(4, FRAMES), atol=1e-5)
        assert torch.allclose(text.view(4, WORDS, -1).norm(dim=-1).sum(dim=-1), torch.ones(4), atol=1e-5)
        return
    assert method.video_width == method.text_width == BACKBONE.spec.embed_dim
    assert torch.allclose(torch.cat([video, text]).norm(dim=-1), torch.ones(8), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_start_is_clip_itself_or_says_it_is_not(name: str) -> None:
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    method = make(name, moved=False)
    if name in PER_FRAME:
        assert not method.starts_as_identity
        return
    pairs = zip(method(*inputs), make("zero_shot")(*inputs), strict=True)
    same = all(bool((ours - plain).abs().max() <= 1e-6) for ours, plain in pairs)
    assert same is method.starts_as_identity


@pytest.mark.parametrize("name", TRAINED)
def test_moving_the_parameters_moves_the_embeddings(name: str) -> None:
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    pairs = zip(make(name)(*inputs), make(name, moved=False)(*inputs), strict=True)
    assert any(bool((ours - plain).abs().max() > 1e-3) for ours, plain in pairs)


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_reach_every_trainable_parameter(name: str) -> None:
    method = make(name, train_logit_scale=True)
    loss(method).backward()
    without = [key for key, p in method.trainable().items() if p.grad is None or not p.grad.abs().sum() > 0]
    # Nothing reads the patches after the last layer, so their calibration there cannot learn. The release is the same.
    unread = [key for key in method.trainable() if key.startswith("video.2.calibration.patch.")]
    assert without == unread


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
            single = method.encode_video(frames[i : i + 1, :length], mask[i : i + 1, :length])
            assert (single[0] - together[i]).abs().max() <= 5e-6


@pytest.mark.parametrize("name", NAMES)
@limits(max_examples=15, deadline=None)
@given(chosen=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5), words=st.integers(11, WORDS))
def test_padding_and_company_change_no_text(name: str, chosen: list[str], words: int) -> None:
    method = make(name)
    with torch.no_grad():
        together = method.encode_text(BACKBONE.tokenize(chosen, words))
        for i, text in enumerate(chosen):
            # VoP's released text layout reads padding columns, so the padded length of texts matters.
            single = method.encode_text(BACKBONE.tokenize([text], words if method.text_hooks().whole_text else WORDS))
            assert (single[0] - together[i]).abs().max() <= 5e-6


@pytest.mark.parametrize("name", NAMES)
def test_frame_order_matters_only_to_temporal_methods(name: str) -> None:
    method = make(name)
    frames = clips(BACKBONE)[0]
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    forward, backward = method.encode_video(frames, mask), method.encode_video(frames.flip(1), mask)
    if name in PER_FRAME:
        assert method.similarity.same(forward, backward, 1e-6).all()
        assert not method.similarity.same(forward, forward.flip(0), 1e-4).any()
        return
    change = (forward - backward).abs().max()
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
    frozen = make(name, train_logit_scale=False).trainable()
    assert "log_scale" not in frozen
    assert not any("logit_scale" in key for key in frozen)
    method = make(name, moved=False, train_logit_scale=True)
    assert "log_scale" in method.trainable()
    assert torch.allclose(method.logit_scale, BACKBONE.logit_scale.exp())


@pytest.mark.parametrize("name", NAMES)
def test_order_within_a_batch_is_irrelevant(name: str) -> None:
    method = make(name)
    frames, mask = clips(BACKBONE)
    tokens = BACKBONE.tokenize(TEXTS, WORDS)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        straight, mixed = method(frames, mask, tokens), method(frames[order], mask[order], tokens[order])
    for ours, theirs in zip(straight, mixed, strict=True):
        assert (ours[order] - theirs).abs().max() <= 5e-6
