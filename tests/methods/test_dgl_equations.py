"""DGL against its equations, written out video by video and frame by frame with open_clip's blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_vop_equations import LENGTHS, embed
from tiny_backbone import TEXTS, WORDS, clips
from torch import Tensor
from torch.nn import functional as F
from variants import BACKBONE, make

GENERATORS = pytest.mark.parametrize("name", ["dgl", "dgl transformer", "dgl postfix"])


def attended(i: int, query: Tensor, keys: Tensor) -> Tensor:
    """Layer ``i``'s attention of tokens to others, and its MLP: ``float[n, D], float[m, D] -> float[n, D]``."""
    block: Any = BACKBONE.vision.layers.blocks[i]
    h = block.ln_1(keys)[None]
    x = query + block.attn(block.ln_1(query)[None], h, h, need_weights=False)[0][0]
    out: Tensor = x + block.mlp(block.ln_2(x))
    return out


def sources(dgl: Any) -> tuple[Tensor, Tensor]:
    """Prompts of all layers: of texts, ``float[K, P_t, D_t]``, and of frames, ``float[K, T, P, D_v]``."""
    source, settings = dgl.source, dgl.settings
    if settings.generator == "linear":
        halves = [source.prefix] + ([source.postfix] if settings.postfix else [])
        texts = torch.stack([torch.cat([half(layer) for half in halves]) for layer in source.prompts])
        return texts, source.prompts[:, None].expand(-1, dgl.frames, -1, -1)
    quick = torch.nn.Sequential(source.fc)
    made = torch.cat([source.block(layer[None]) for layer in source.prompts])
    u = quick(made[:, : settings.frame_prompts])
    frames = made[:, 2 * settings.frame_prompts :].reshape(len(made), dgl.frames, settings.frame_prompts, -1)
    return source.proj(u * torch.sigmoid(1.702 * u)), frames


def video(dgl: Any, frames: Tensor, made: Tensor) -> Tensor:
    """The embedding of one video: ``float[T, 3, S, S] -> float[E]``."""
    tower: Any = BACKBONE.vision
    tokens, prompts = tower.ln_pre(embed(frames)), dgl.global_prompts
    for i in range(BACKBONE.spec.vision_layers):
        units = [torch.cat([x[:1], made[i, t], x[1:]]) for t, x in enumerate(tokens)]
        after = attended(i, prompts, torch.cat([prompts, *units]))
        rows = [attended(i, unit, torch.cat([prompts, unit])) for unit in units]
        tokens = torch.stack([torch.cat([row[:1], row[1 + made.shape[2] :]]) for row in rows])
        prompts = after
    return F.normalize(tower.ln_post(prompts[0]) @ tower.proj, dim=-1)


@GENERATORS
def test_videos_with_padding(name: str) -> None:
    dgl: Any = make(name)
    frames, mask = clips(BACKBONE)
    _, made = sources(dgl)
    with torch.no_grad():
        ours = dgl.encode_video(frames, mask)
        for row, length in enumerate(LENGTHS):
            assert (ours[row] - video(dgl, frames[row, :length], made)).abs().max() <= 1e-5


@GENERATORS
def test_texts(name: str) -> None:
    dgl: Any = make(name)
    tower: Any = BACKBONE.text
    tokens, (made, _) = BACKBONE.tokenize(TEXTS, WORDS), sources(dgl)
    ours = dgl.encode_text(tokens)
    count = made.shape[1]
    for row, ids in enumerate(tokens):
        x = tower.token_embedding(ids) + tower.positional_embedding[:WORDS]
        for i, block in enumerate(tower.layers.blocks):
            full = torch.cat([x[:1], made[i], x[1:]])
            out = block(full[None], attn_mask=torch.full((len(full),) * 2, float("-inf")).triu(1))[0]
            x = torch.cat([out[:1], out[1 + count :]])
        theirs = F.normalize(tower.ln_final(x[ids.argmax()]) @ tower.text_projection, dim=-1)
        assert (ours[row] - theirs).abs().max() <= 1e-5
