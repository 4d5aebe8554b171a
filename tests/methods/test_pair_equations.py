"""Prompts of two methods in one tower, written out frame by frame and layer by layer with open_clip's blocks.

Each method's prompts are next to CLIP's tokens in the layers that have some. In joint layers the prompts of a frame
stay with it, and those of a video follow its frames. This slow second implementation is the reference of the fast one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_pairs import pair
from test_vop_equations import LENGTHS, block, context, embed, learned
from tiny_backbone import TEXTS, WORDS, clips
from torch import Tensor
from torch.nn import functional as F
from variants import BACKBONE

from components.errors import ConfigError
from components.methods.vop import VoP
from components.methods.vpt import VPT

Kept = dict[int, Tensor]


def prompts_of(part: Any, number: int, i: int, x: Tensor, kept: Kept) -> Tensor:
    """The prompts of each frame that a method puts into layer ``i``: ``float[T, P, D]``."""
    norm, length = BACKBONE.vision.ln_pre, len(x)
    if isinstance(part, VPT):
        if part.settings.depth == "shallow" and i > 0:
            return kept[number]
        made = part.prompts[i].expand(length, -1, -1)
        return norm(made) if i == 0 else made
    if i not in part.frame_layers:
        return x[:, :0]
    made = learned(part, i, length)
    return torch.cat([norm(made) if i == 0 else made, context(part, x[:, 0])], dim=1)


def video_features(parts: list[Any], frames: Tensor) -> Tensor:
    """Features of the frames of one video: ``float[T, 3, S, S] -> float[T, E]``."""
    tower, joint = BACKBONE.vision, False
    kept: Kept = {}
    x = tower.ln_pre(embed(frames))
    for i in range(BACKBONE.spec.vision_layers):
        for part in parts:
            if isinstance(part, VoP) and part.frame_embedding is not None and part.intra == i:
                x, joint = x + part.frame_embedding[: len(x), None], True
        made = [prompts_of(part, number, i, x, kept) for number, part in enumerate(parts)]
        rows = [torch.cat([x[t], *(own[t] for own in made)]) for t in range(len(x))]
        if joint:
            ends = [
                part.joint_prompts[part.joint_layers.index(i)]
                for part in parts
                if isinstance(part, VoP) and i in part.joint_layers and part.joint_prompts is not None
            ]
            out = block(i, torch.cat([*rows, *ends])[None])[0]
            rows = list(out[: sum(map(len, rows))].chunk(len(x)))
        else:
            rows = [block(i, row[None])[0] for row in rows]
        tokens = x.shape[1]
        sizes = [own.shape[1] for own in made]
        after = torch.stack(rows)[:, tokens:].split(sizes, dim=1)
        x, kept = torch.stack(rows)[:, :tokens], dict(enumerate(after))
    features: Tensor = tower.ln_post(x[:, 0]) @ tower.proj
    return features


@pytest.mark.parametrize(
    ("methods", "settings"),
    [
        (["vop", "vpt"], {}),
        (["vpt", "vop_c"], {"vpt": {"depth": "shallow"}}),
        (["vop_f", "vop_p"], {}),
        (["vop_p", "vop_f"], {"vop_f": {"intra_layers": 1}}),
        (["vop_f", "vop_fp"], {"vop_fp": {"intra_layers": 1}}),
        (["vpt", "vop_f"], {}),
        (["vop_f", "vpt"], {"vpt": {"depth": "shallow"}, "vop_f": {"intra_layers": 1}}),
        (["vop_f", "vop_c"], {"vop_f": {"intra_layers": 0}}),
        (["vop_f", "vop_p", "vpt"], {"vop_p": {"video_layers": [0, 2]}}),
    ],
)
def test_prompts_in_the_vision_tower(methods: list[str], settings: dict[str, Any]) -> None:
    model: Any = pair({"method": methods, "lr": 1e-2, **settings})
    frames, mask = clips(BACKBONE)
    with torch.no_grad():
        ours = model.frame_features(frames, mask)
        for video, length in enumerate(LENGTHS):
            theirs = video_features(model.members(), frames[video, :length])
            assert (ours[video, :length] - theirs).abs().max() <= 2e-5


@pytest.mark.parametrize("methods", [["coop", "vop"], ["vop", "coop"], ["vop", "vop_p"], ["coop", "vop_p", "vop"]])
def test_prompts_in_the_text_tower(methods: list[str]) -> None:
    """CoOp's context takes positions and runs through the layers. Fresh prompts of the last method come first."""
    settings = {"coop": {"prompts": 3}, "vop_p": {"text_layers": [0, 2]}}
    model: Any = pair({"method": methods, "lr": 1e-2, **{k: v for k, v in settings.items() if k in methods}})
    parts = dict(zip(methods, model.members(), strict=True))
    tower, tokens = BACKBONE.text, BACKBONE.tokenize(TEXTS, WORDS)
    ours = model.encode_text(tokens)
    for text in range(len(TEXTS)):
        x = tower.token_embedding(tokens[text])
        end = int(tokens[text].argmax())
        if "coop" in parts:
            x, end = torch.cat([x[:1], parts["coop"].prompts, x[1:]]), end + 3
        x = x + tower.positional_embedding[: len(x)]
        for i, layer in enumerate(tower.layers.blocks):
            fresh = [
                part.text_prompts[part.text_layers.index(i)]
                for name, part in reversed(parts.items())
                if name != "coop" and i in part.text_layers
            ]
            row = torch.cat([x[:1], *fresh, x[1:]])[None]
            out = layer(row, attn_mask=torch.full((row.shape[1],) * 2, float("-inf")).triu(1))[0]
            x = torch.cat([out[:1], out[1 + sum(map(len, fresh)) :]])
        theirs = F.normalize(tower.ln_final(x[end]) @ tower.text_projection, dim=-1)
        assert (ours[text] - theirs).abs().max() <= 1e-5


def test_an_adapter_sees_no_words_of_a_learned_context() -> None:
    """MV-Adapter has a position for each of CLIP's tokens. Texts of full length have no token more next to CoOp."""
    model: Any = pair({"method": ["coop", "vop", "mv_adapter"], "lr": 1e-2, "coop": {"prompts": 8}})
    long = BACKBONE.tokenize(["one two three four five six seven eight nine ten eleven twelve"], WORDS)
    short = BACKBONE.tokenize(["it turns"], WORDS)
    assert int(long.argmax()) == WORDS - 1
    both = model.encode_text(torch.cat([long, short]))
    assert torch.allclose(both, torch.cat([model.encode_text(long), model.encode_text(short)]), atol=1e-6)


@pytest.mark.parametrize("name", ["zero_shot", "vop_fc", "mv_adapter", "seq_transf", "st_adapter"])
def test_padding_before_a_valid_frame_is_refused(name: str) -> None:
    raw = {"start": "random"} if name == "seq_transf" else {}
    method = pair({"method": name, **raw, **({} if name == "zero_shot" else {"lr": 1e-2})})
    frames, mask = clips(BACKBONE)
    mask[2] = torch.tensor([True, False, True, True, False])
    with pytest.raises(
        ConfigError, match=r"video 2 of the batch: a padding frame .*\[1, 0, 1, 1, 0\].*put the padding at"
    ):
        method.encode_video(frames, mask)


def test_gradients_of_a_batch_are_those_without_its_empty_video() -> None:
    """A video without a valid frame is zero in every method, and moves nothing."""
    method = pair({"method": ["vop_fc", "seq_transf"], "lr": 1e-2, "seq_transf": {"start": "random"}})
    frames, mask = clips(BACKBONE)
    target = torch.randn(4, BACKBONE.spec.embed_dim)
    found = []
    for rows in ([0, 1, 3], [0, 1, 2, 3]):
        method.zero_grad()
        seen = mask.clone()
        seen[2] = False
        video = method.encode_video(frames[rows], seen[rows])
        assert not video[2].any() or len(rows) == 3
        (video * target[rows]).sum().backward()
        found.append({name: p.grad for name, p in method.trainable().items() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])
