"""DiscoVLA against a second implementation that attends for one frame of one video at a time, and its promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_backbone import FRAMES, TEXTS, WORDS, clips
from torch import Tensor
from torch.nn import functional as F
from variants import BACKBONE, make

from components.backbones.towers import checkpointed
from components.errors import ConfigError
from components.methods.build import build
from components.methods.discovla import DiscoVLA

LENGTHS = (5, 4, 3, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """``float[n, D], float[m, D], float[m, D] -> float[n, D]``, head by head."""
    outs = []
    for of_q, of_k, of_v in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        outs.append((of_q @ of_k.T / of_q.shape[1] ** 0.5).softmax(dim=-1) @ of_v)
    return torch.cat(outs, dim=-1)


def features(method: DiscoVLA, frames: Tensor) -> Tensor:
    """Features of the frames of one video: ``float[T, 3, S, S] -> float[T, E]``."""
    tower = method.backbone.vision
    patches = tower.conv1(frames).flatten(2).transpose(1, 2)
    assert tower.class_embedding is not None
    x = torch.cat([tower.class_embedding.expand(len(frames), 1, -1), patches], dim=1) + tower.positional_embedding
    x = tower.ln_pre(x)
    for i in range(method.spec.vision_layers):
        block: Any = tower.layers.blocks[i]
        weight = block.attn.in_proj_weight
        if str(i) in method.video:
            update: Any = method.video[str(i)]
            weight = weight + update.qkv.b @ update.qkv.a
        q, k, v = F.linear(block.ln_1(x), weight, block.attn.in_proj_bias).chunk(3, dim=-1)
        heads, rows = block.attn.num_heads, []
        for t in range(len(x)):
            a = block.attn.out_proj(attend(q[t], k[t], v[t], heads))
            if str(i) in method.fusion:
                every_k, every_v = (torch.cat(list(part)) for part in (k, v))
                across = block.attn.out_proj(attend(q[t, :1], every_k, every_v, heads))
                adapter: Any = method.fusion[str(i)]
                u = a[:1] @ adapter.down.weight.T + adapter.down.bias
                u = (u * torch.sigmoid(1.702 * u)) @ adapter.up.weight.T + adapter.up.bias
                a = torch.cat([across + u, a[1:]])
            rows.append(a)
        x = x + torch.stack(rows)
        x = x + block.mlp(block.ln_2(x))
    out: Tensor = tower.ln_post(x[:, 0]) @ tower.proj
    return out


@pytest.mark.parametrize("changes", [{}, {"fusion_layers": 1}, {"fusion_layers": 3, "bottleneck": 3, "rank": 2}])
def test_class_tokens_attend_across_frames(changes: dict[str, Any]) -> None:
    method = make("discovla", **changes)
    assert isinstance(method, DiscoVLA)
    frames, mask = clips(BACKBONE)
    with torch.no_grad():
        ours = method.frame_features(frames, mask)
        for video, length in enumerate(LENGTHS):
            assert (ours[video, :length] - features(method, frames[video, :length])).abs().max() <= 2e-5


def test_the_text_side_is_lora() -> None:
    method, lora = make("discovla"), make("lora")
    lora.load_state_dict({k: v for k, v in method.state_dict().items() if not k.startswith("fusion")}, strict=True)
    tokens = BACKBONE.tokenize(TEXTS, WORDS)
    assert torch.equal(method.encode_text(tokens), lora.encode_text(tokens))


def test_one_frame_untrained_is_clip() -> None:
    """Attention across one frame is attention within it, and the adapter starts at zero."""
    frames, _ = clips(BACKBONE, 4, 1)
    mask = torch.ones(4, 1, dtype=torch.bool)
    ours = make("discovla", moved=False).encode_video(frames, mask)
    assert (ours - make("zero_shot").encode_video(frames, mask)).abs().max() <= 1e-6


def test_next_to_another_update_of_the_out_map() -> None:
    """The adapter reads CLIP's own out map. The class token itself goes through the updated one."""
    raw = {"method": ["discovla", "lora"], "lr": 1e-2, "discovla": {"fusion_layers": 2}, "lora": {"targets": ["qkv"]}}
    torch.manual_seed(3)
    model: Any = build("pair", raw, BACKBONE, frames=FRAMES, words=WORDS)
    disco, lora = model.members()
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        frames, mask = clips(BACKBONE)
        ours = model.frame_features(frames, mask)
        # Two updates of one map are one update with the sum of their products.
        for i in range(BACKBONE.spec.vision_layers):
            one, two = disco.video[str(i)]["qkv"], lora.video[str(i)]["qkv"]
            one.a, one.b = (
                torch.nn.Parameter(torch.cat([one.a, two.a])),
                torch.nn.Parameter(torch.cat([one.b, two.b], dim=1)),
            )
        for video, length in enumerate(LENGTHS):
            assert (ours[video, :length] - features(disco, frames[video, :length])).abs().max() <= 2e-5


def test_in_a_joint_layout_only_the_adapter_is_added() -> None:
    """In VoP's joint layers, class tokens attend across frames already."""
    raw = {"method": ["vop_f", "discovla"], "lr": 1e-2, "discovla": {"fusion_layers": 1}}
    torch.manual_seed(3)
    model: Any = build("pair", raw, BACKBONE, frames=FRAMES, words=WORDS)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        adapter = model.members()[1].fusion["2"]
        adapter.up.weight.zero_()
        adapter.up.bias.zero_()
        frames, mask = clips(BACKBONE)
        with_zero = model.frame_features(frames, mask)
        lora = {"method": ["vop_f", "lora"], "lr": 1e-2}
        plain: Any = build("pair", lora, BACKBONE, frames=FRAMES, words=WORDS)
        state = {key.replace("parts.discovla", "parts.lora"): value for key, value in model.state_dict().items()}
        plain.load_state_dict({key: value for key, value in state.items() if "fusion" not in key})
        valid = mask.unsqueeze(-1)
        assert ((with_zero - plain.frame_features(frames, mask)) * valid).abs().max() <= 1e-5
        adapter.up.bias.copy_(torch.randn(len(adapter.up.bias)))
        assert ((with_zero - model.frame_features(frames, mask)) * valid).abs().max() > 1e-2


def test_checkpointed_layers_give_the_same_gradients() -> None:
    def gradients(on: bool) -> list[Tensor]:
        method = make("discovla")
        with checkpointed(method.backbone, on):
            method.encode_video(*clips(BACKBONE)).pow(3).sum().backward()
        return [p.grad for name, p in method.trainable().items() if p.grad is not None and "text" not in name]

    plain, again = gradients(False), gradients(True)
    assert len(plain) == 3 * 2 + 2 * 4
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_more_fusion_layers_than_layers() -> None:
    with pytest.raises(ConfigError, match=r"discovla.fusion_layers: more fusion layers.*found 4.*at most 3"):
        build("discovla", {"lr": 1e-2}, BACKBONE, frames=FRAMES, words=WORDS)
