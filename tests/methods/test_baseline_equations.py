"""Baselines against their papers' equations, written out layer by layer with open_clip's blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
from tiny_backbone import CONFIG, TEXTS, WORDS, clips
from torch import Tensor, nn
from torch.nn import functional as F
from variants import BACKBONE, make

from components.backbones.clip import Backbone
from components.backbones.load import create
from components.methods.base import Method
from components.methods.build import build
from components.methods.principal import _TopEigenvector, first_principal_axis

# One layer as a function: (layer number, block, x, causal mask) -> x.
Layer = Callable[[int, Any, Tensor, Tensor | None], Tensor]


def attention(block: Any, h: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by nn.MultiheadAttention."""
    out: Tensor = block.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
    return out


def features(method: Method, layer: Layer) -> Tensor:
    """Features of all frames, with ``layer`` in place of each block: ``float[B*T, E]``."""
    vision = method.backbone.vision
    frames = clips(BACKBONE)[0].flatten(0, 1)
    patches = vision.conv1(frames).flatten(2).transpose(1, 2)
    assert vision.class_embedding is not None
    x = torch.cat([vision.class_embedding.expand(len(frames), 1, -1), patches], dim=1) + vision.positional_embedding
    x = vision.ln_pre(x)
    for i, block in enumerate(vision.layers.blocks):
        x = layer(i, block, x, None)
    out: Tensor = vision.ln_post(x[:, 0]) @ vision.proj
    return out


def text_features(method: Method, layer: Layer) -> Tensor:
    """Features of the texts, with ``layer`` in place of each block: ``float[n, E]``."""
    text, tokens = method.backbone.text, BACKBONE.tokenize(TEXTS, WORDS)
    x = text.token_embedding(tokens) + text.positional_embedding[:WORDS]
    causal = torch.full((WORDS, WORDS), float("-inf")).triu(1)
    for i, block in enumerate(text.layers.blocks):
        x = layer(i, block, x, causal)
    out: Tensor = text.ln_final(x[torch.arange(len(x)), tokens.argmax(dim=1)]) @ text.text_projection
    return out


def check(method: Method, vision: Layer, text: Layer) -> None:
    """Compares the method with the two towers built from ``vision`` and ``text``."""
    frames, _ = clips(BACKBONE)
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        ours = method.frame_features(frames, mask).flatten(0, 1)
        assert (ours - features(method, vision)).abs().max() <= 2e-5
        words = method.backbone.text(BACKBONE.tokenize(TEXTS, WORDS), method.text_hooks())
        assert (words - text_features(method, text)).abs().max() <= 2e-5


def mlp_of(block: Any, x: Tensor) -> Tensor:
    out: Tensor = block.mlp(block.ln_2(x))
    return out


def bottleneck(adapter: Any, x: Tensor) -> Tensor:
    out: Tensor = adapter.scale * adapter.up(torch.relu(adapter.down(adapter.norm(x))))
    return out


def test_adapter_attn() -> None:
    method: Any = make("adapter_attn")

    def layer(adapters: Any) -> Layer:
        def run(i: int, block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
            h = block.ln_1(x)
            x = x + attention(block, h, mask) + bottleneck(adapters[str(i)], h)
            return x + mlp_of(block, x)

        return run

    check(method, layer(method.video), layer(method.text))


def test_adapter_ffn() -> None:
    method: Any = make("adapter_ffn")

    def layer(adapters: Any) -> Layer:
        def run(i: int, block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
            x = x + attention(block, block.ln_1(x), mask)
            return x + mlp_of(block, x) + bottleneck(adapters[str(i)], block.ln_2(x))

        return run

    check(method, layer(method.video), layer(method.text))


def sequential(adapters: Any) -> Layer:
    """AdaptMLP after the MLP, the text side of several baselines."""

    def run(i: int, block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + attention(block, block.ln_1(x), mask)
        m = mlp_of(block, x)
        return x + m + bottleneck(adapters[str(i)], m)

    return run


def test_adaptformer() -> None:
    method: Any = make("adaptformer_par")

    def parallel(i: int, block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + attention(block, block.ln_1(x), mask)
        return x + mlp_of(block, x) + bottleneck(method.video[str(i)], x)

    check(method, parallel, sequential(method.text))
    method = make("adaptformer_seq")
    check(method, sequential(method.video), sequential(method.text))


@pytest.mark.parametrize("name", ["st_adapter", "st_adapter 3x3x3"])
def test_st_adapter(name: str) -> None:
    method: Any = make(name)

    def layer(i: int, block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        adapter = method.video[i]
        grid = adapter.down(x[:, 1:]).view(4, -1, 2, 2, adapter.down.out_features).permute(0, 4, 1, 2, 3)
        mixed = adapter.conv(grid).permute(0, 2, 3, 4, 1).reshape(len(x), 4, -1)
        x = torch.cat([x[:, :1], x[:, 1:] + adapter.up(mixed)], dim=1)
        return block(x)

    check(method, layer, sequential(method.text))


def test_convpass() -> None:
    method: Any = make("convpass")

    def by_pass(adapter: Any, h: Tensor) -> Tensor:
        quick = open_clip.transformer.QuickGELU()
        u = quick(adapter.down(h))
        first = adapter.conv(u[:, :1].transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        patches = adapter.conv(u[:, 1:].transpose(1, 2).unflatten(2, (2, 2))).flatten(2).transpose(1, 2)
        return adapter.scale * adapter.up(quick(torch.cat([first, patches], dim=1)))

    def layer(i: int, block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        h = block.ln_1(x)
        x = x + attention(block, h, mask) + by_pass(method.video["attention"][i], h)
        return x + mlp_of(block, x) + by_pass(method.video["mlp"][i], block.ln_2(x))

    check(method, layer, sequential(method.text))


def test_cross_modal_adapter() -> None:
    method: Any = make("cm_adapter")
    quick = open_clip.transformer.QuickGELU()

    def layer(adapters: Any) -> Layer:
        def adapted(i: int, place: str, z: Tensor) -> Tensor:
            u = quick(getattr(adapters[i].down, place)(z))
            return z + torch.cat([getattr(adapters[i].up, place)(u), getattr(method.shared[i], place)(u)], dim=-1)

        def run(i: int, block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
            x = x + adapted(i, "attention", attention(block, block.ln_1(x), mask))
            return x + adapted(i, "mlp", mlp_of(block, x))

        return run

    check(method, layer(method.video), layer(method.text))


@pytest.mark.parametrize("name", ["lora", "lora everywhere"])
def test_lora_equals_merged_weights(name: str) -> None:
    method: Any = make(name)
    torch.manual_seed(0)
    clip = create("tiny", {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "pos_embed_type": "learnable"}})
    merged = Backbone(clip, "tiny", open_clip.SimpleTokenizer())
    with torch.no_grad():
        for tower, layers in ((merged.vision, method.video), (merged.text, method.text)):
            blocks: Any = tower.layers.blocks
            for i, block in enumerate(blocks):
                weights = {
                    "qkv": block.attn.in_proj_weight, "out": block.attn.out_proj.weight,
                    "fc": block.mlp.c_fc.weight, "proj": block.mlp.c_proj.weight,
                }  # fmt: skip
                for part, update in layers[str(i)].items():
                    weights[part] += method.settings.factor * update.b @ update.a
    plain = build("zero_shot", {}, merged, frames=5, words=WORDS)
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    for ours, theirs in zip(method(*inputs), plain(*inputs), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5


def test_seq_transf_starts_as_the_text_tower_and_masks_padding() -> None:
    # CLIP4Clip's head, built from open_clip's blocks and copied from a text tower of the joint space's width.
    raw = {**CONFIG, "embed_dim": 16}
    torch.manual_seed(3)
    backbone = Backbone(create("tiny", raw, quick_gelu=True), "tiny", open_clip.SimpleTokenizer())
    settings = {"lr": 1e-3, "layers": 2, "heads": 2}
    method = build("seq_transf", settings, backbone, frames=5, words=WORDS)
    frames, mask = clips(backbone)
    plain = method.frame_features(frames, mask)
    x = plain + backbone.text.positional_embedding[:5]
    extended = torch.zeros(4, 1, 5).masked_fill(~mask[:, None], -1e6).expand(-1, 5, -1).repeat_interleave(2, dim=0)
    for block in list(backbone.text.layers.blocks)[:2]:
        x = block(x, attn_mask=extended)
    unit = F.normalize(x + plain, dim=-1) * mask.unsqueeze(-1)
    theirs = F.normalize(unit.sum(dim=1) / mask.sum(dim=1, keepdim=True), dim=-1)
    assert (method.encode_video(frames, mask) - theirs).abs().max() <= 1e-5


class TestPrincipalAxis:
    @pytest.mark.parametrize("shape", [(3, 6, 9), (3, 9, 6), (2, 16, 49)])
    def test_is_what_pca_lowrank_finds(self, shape: tuple[int, int, int]) -> None:
        torch.manual_seed(1)
        x = torch.randn(shape) * torch.linspace(1, 3, shape[2])
        axis = first_principal_axis(x)
        found = torch.pca_lowrank(x, q=min(shape[1:]), niter=20)[2][..., 0]
        assert ((axis * found).sum(dim=1).abs() - 1).abs().max() <= 1e-4
        assert (axis.sum(dim=1) >= 0).all()
        assert torch.equal(axis, first_principal_axis(x.clone()))

    def test_gradient_where_other_eigenvalues_agree(self) -> None:
        # In this Gram matrix of low rank, all eigenvalues but three are zero. The outer product hides the free sign.
        torch.manual_seed(2)
        factor = torch.randn(1, 8, 3, dtype=torch.float64, requires_grad=True)

        def outer(z: Tensor) -> Tensor:
            v = _TopEigenvector.apply(z @ z.transpose(1, 2))
            return v.unsqueeze(-1) * v.unsqueeze(-2)

        assert torch.autograd.gradcheck(outer, (factor,))

    def test_nothing_varies(self) -> None:
        x = torch.ones(2, 4, 9, requires_grad=True)
        axis = first_principal_axis(x)
        axis.sum().backward()
        assert torch.equal(axis, torch.zeros(2, 9))
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()


def test_coop_is_a_longer_text() -> None:
    # The context goes between the start token and the words, as token embeddings would.
    method: Any = make("coop")
    text, tokens = BACKBONE.text, BACKBONE.tokenize(TEXTS, WORDS)
    count = len(method.prompts)
    words = text.token_embedding(tokens)
    x = torch.cat([words[:, :1], method.prompts.expand(len(words), -1, -1), words[:, 1:]], dim=1)
    x = x + text.positional_embedding[: WORDS + count]
    causal = torch.full((WORDS + count,) * 2, float("-inf")).triu(1)
    for block in text.layers.blocks:
        x = block(x, attn_mask=causal)
    theirs = text.ln_final(x[torch.arange(len(x)), tokens.argmax(dim=1) + count]) @ text.text_projection
    assert (method.encode_text(tokens) - F.normalize(theirs, dim=-1)).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["vpt", "vpt shallow"])
def test_vpt(name: str) -> None:
    method: Any = make(name)
    vision, count = BACKBONE.vision, method.settings.prompts
    frames, mask = clips(BACKBONE)
    flat = frames.flatten(0, 1)
    patches = vision.conv1(flat).flatten(2).transpose(1, 2)
    assert vision.class_embedding is not None
    x = torch.cat([vision.class_embedding.expand(len(flat), 1, -1), patches], dim=1) + vision.positional_embedding
    x = torch.cat([x[:, :1], method.prompts[0].expand(len(x), -1, -1), x[:, 1:]], dim=1)
    x = vision.ln_pre(x)
    for i, block in enumerate(vision.layers.blocks):
        if i and method.settings.depth == "deep":
            x = torch.cat([x[:, :1], method.prompts[i].expand(len(x), -1, -1), x[:, 1 + count :]], dim=1)
        x = block(x)
    theirs = vision.ln_post(x[:, 0]) @ vision.proj
    assert (method.frame_features(frames, mask).flatten(0, 1) - theirs).abs().max() <= 2e-5


def test_shared_parameters_are_not_copied() -> None:
    # A method that trains a part of CLIP copies only that part.
    method = make("bias", moved=False)
    ours, plain = dict(method.backbone.named_parameters()), dict(BACKBONE.named_parameters())
    for name, parameter in ours.items():
        assert (parameter is plain[name]) is not name.endswith("bias")
    assert isinstance(method.backbone, nn.Module)
