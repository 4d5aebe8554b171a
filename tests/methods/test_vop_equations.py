"""VoP's variants against the paper's equations, written out video by video and layer by layer with open_clip's blocks.

The variants have no public code, so this slow second implementation is the reference of the fast one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_backbone import TEXTS, WORDS, clips
from torch import Tensor
from torch.nn import functional as F
from variants import BACKBONE, make

from components.methods.vop import VoP
from components.report.count import meta_backbone

LENGTHS = (5, 4, 3, 2)


def embed(frames: Tensor) -> Tensor:
    """Tokens before ``ln_pre``: ``float[T, 3, S, S] -> float[T, 1+N, D]``."""
    vision = BACKBONE.vision
    patches = vision.conv1(frames).flatten(2).transpose(1, 2)
    assert vision.class_embedding is not None
    first = vision.class_embedding.expand(len(frames), 1, -1)
    return torch.cat([first, patches], dim=1) + vision.positional_embedding


def block(i: int, x: Tensor) -> Tensor:
    """Runs layer ``i`` of open_clip's vision tower."""
    out: Tensor = BACKBONE.vision.layers.blocks[i](x)
    return out


def learned(vop: VoP, i: int, length: int) -> Tensor:
    """Generic prompts of layer ``i``, then position-specific ones: ``float[T, P, D]``."""
    row, parts = vop.frame_layers.index(i), [torch.zeros(length, 0, BACKBONE.spec.vision_width)]
    if vop.generic_prompts is not None:
        parts.append(vop.generic_prompts[row].expand(length, -1, -1))
    if vop.position_prompts is not None:
        parts.append(vop.position_prompts[row, :length])
    return torch.cat(parts, dim=1)


def context(vop: VoP, classes: Tensor) -> Tensor:
    """Equation 6 for one video: ``float[T, D] -> float[T, P, D]``."""
    if vop.context is None:
        return classes.new_zeros(len(classes), 0, classes.shape[1])
    module: Any = vop.context.module
    hidden = module(classes.unsqueeze(0))[0].squeeze(0)
    return torch.stack([torch.stack(vop.context.fc(h).chunk(vop.context.count)) for h in hidden])


def video_features(vop: VoP, frames: Tensor) -> Tensor:
    """Features of the frames of one video: ``float[T, 3, S, S] -> float[T, E]``."""
    length, tower = len(frames), BACKBONE.vision
    x = embed(frames)
    for i in range(BACKBONE.spec.vision_layers):
        has_prompts = i in vop.frame_layers
        if i == 0:
            early = learned(vop, 0, length) if has_prompts and vop.intra else x[:, 1:1]
            x = tower.ln_pre(torch.cat([x[:, :1], early, x[:, 1:]], dim=1))
            kept, x = x[:, 1 : 1 + early.shape[1]], torch.cat([x[:, :1], x[:, 1 + early.shape[1] :]], dim=1)
        if i < vop.intra:
            prompts = x[:, 1:1]
            if has_prompts:
                prompts = torch.cat([kept if i == 0 else learned(vop, i, length), context(vop, x[:, 0])], dim=1)
            out = block(i, torch.cat([x[:, :1], prompts, x[:, 1:]], dim=1))
            x = torch.cat([out[:, :1], out[:, 1 + prompts.shape[1] :]], dim=1)
            continue
        if i == vop.intra and vop.frame_embedding is not None:
            x = x + vop.frame_embedding[:length, None]
        prompts = x[0, 1:1]
        if i in vop.joint_layers and vop.joint_prompts is not None:
            prompts = vop.joint_prompts[vop.joint_layers.index(i)]
        # The paper's order: [C, P, E_1 .. E_T].
        out = block(i, torch.cat([x[:, 0], prompts, x[:, 1:].flatten(0, 1)]).unsqueeze(0)).squeeze(0)
        patches = out[length + len(prompts) :].unflatten(0, (length, -1))
        x = torch.cat([out[:length, None], patches], dim=1)
    features: Tensor = tower.ln_post(x[:, 0]) @ tower.proj
    return features


@pytest.mark.parametrize(
    "name",
    [
        "vop", "vop_p", "vop_c", "vop_f", "vop_fp", "vop_fc", "vop_pc", "vop_fpc", "vop some layers",
        "vop_p some layers", "vop_p all specific", "vop_c all specific", "vop_c lstm", "vop_c later layers",
        "vop_f all joint", "vop_f some layers", "vop_f without prompts",
    ],
)  # fmt: skip
def test_video_side(name: str) -> None:
    vop = make(name)
    assert isinstance(vop, VoP)
    frames, mask = clips(BACKBONE)
    ours = vop.frame_features(frames, mask)
    for video, length in enumerate(LENGTHS):
        theirs = video_features(vop, frames[video, :length])
        assert (ours[video, :length] - theirs).abs().max() <= 2e-5
        pooled = F.normalize(F.normalize(theirs, dim=-1).mean(dim=0), dim=-1)
        assert (vop.encode_video(frames, mask)[video] - pooled).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["vop", "vop_fc"])
def test_plain_mean_of_frames(name: str) -> None:
    """The paper's mean of frames as they are, written out. It weighs frames by their norms."""
    plain, released = make(name, normalize_frames=False), make(name)
    assert isinstance(plain, VoP)
    frames, mask = clips(BACKBONE)
    for video, length in enumerate(LENGTHS):
        total = sum(video_features(plain, frames[video, :length])) / length
        assert isinstance(total, Tensor)
        found = plain.encode_video(frames, mask)[video]
        assert (found - total / total.square().sum().sqrt()).abs().max() <= 2e-6
        if length > 1:
            assert (found - released.encode_video(frames, mask)[video]).abs().max() > 2e-5


@pytest.mark.parametrize("name", ["vop", "vop some layers", "vop text only"])
def test_text_side(name: str) -> None:
    vop = make(name)
    assert isinstance(vop, VoP)
    assert vop.text_prompts is not None
    tower, tokens = BACKBONE.text, BACKBONE.tokenize(TEXTS, WORDS)
    for text in range(len(TEXTS)):
        end = int(tokens[text].argmax())
        x = (tower.token_embedding(tokens[text]) + tower.positional_embedding[:WORDS]).unsqueeze(0)
        for i, layer in enumerate(tower.layers.blocks):
            here = i in vop.text_layers
            prompts = vop.text_prompts[vop.text_layers.index(i)].unsqueeze(0) if here else x[:, 1:1]
            sequence = torch.cat([x[:, :1], prompts, x[:, 1:]], dim=1)
            causal = torch.full((sequence.shape[1],) * 2, float("-inf")).triu(1)
            out = layer(sequence, attn_mask=causal)
            x = torch.cat([out[:, :1], out[:, 1 + prompts.shape[1] :]], dim=1)
        theirs = tower.ln_final(x[0, end]) @ tower.text_projection
        assert (vop.encode_text(tokens)[text] - F.normalize(theirs, dim=-1)).abs().max() <= 1e-5


def test_the_last_third_is_joint_by_default() -> None:
    depths = {"ViT-B-32": 8, "ViT-L-14": 16, "mini": 3}
    for model, intra in depths.items():
        backbone = meta_backbone(model)
        with torch.device("meta"):
            vop = make("vop_f", backbone, moved=False)
        assert isinstance(vop, VoP)
        assert vop.intra == intra, model


def test_frame_embedding_starts_as_nothing_and_learns_order() -> None:
    vop = make("vop_f", moved=False)
    frames, _ = clips(BACKBONE)
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    assert (vop.encode_video(frames, mask) - vop.encode_video(frames.flip(1), mask)).abs().max() <= 1e-6
    (vop.encode_video(frames, mask) * torch.randn(4, BACKBONE.spec.embed_dim)).sum().backward()
    assert isinstance(vop, VoP)
    assert vop.frame_embedding is not None
    assert vop.frame_embedding.grad is not None
    assert vop.frame_embedding.grad.abs().max() > 1e-6
