"""TempMe against a second implementation that merges one video, one clip and one token at a time, and its promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_backbone import FRAMES, TEXTS, WORDS, clips, make_backbone
from torch import Tensor
from torch.nn import functional as F
from variants import BACKBONE, make

from components.backbones.towers import Chain, Flow, Hooks, checkpointed
from components.errors import ConfigError
from components.methods.build import build
from components.methods.merging import matching, merged
from components.methods.tempme import TempMe
from components.report.count import meta_backbone

# 17 tokens a frame, so that there is something to merge, and 4 layers.
WIDE = make_backbone(
    learned_positions=True,
    vision_cfg={"image_size": 32, "patch_size": 8, "layers": 4, "width": 32, "head_width": 16},
)


def on_wide(frames: int, **changes: Any) -> TempMe:
    """A method whose parameters have been moved, on the backbone with more patches."""
    torch.manual_seed(11)
    method = build("tempme", {"lr": 1e-2, **changes}, WIDE, frames=frames, words=WORDS)
    with torch.no_grad():
        for parameter in method.trainable().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    assert isinstance(method, TempMe)
    return method


class Token:
    """One token: its value, what it is compared by, how many tokens it stands for."""

    def __init__(self, x: Tensor, size: int = 1) -> None:
        self.x, self.size = x, size


def merge(tokens: list[Token], metrics: list[Tensor], classes: int, count: int) -> list[Token]:
    """Merges the ``count`` most similar pairs, written out token by token."""
    patches = list(zip(tokens, metrics, strict=True))[classes:]
    odd = classes % 2
    first, second = patches[odd::2], patches[1 - odd :: 2]
    found = []
    for number, (_, metric) in enumerate(first):
        cosines = [round(float(F.cosine_similarity(metric, other, dim=0)) * 65536) for _, other in second]
        best = max(cosines)
        found.append((-best, number, cosines.index(best)))
    chosen = {number: nearest for _, number, nearest in sorted(found)[:count]}
    groups = [[token] for token, _ in second]
    for number, nearest in sorted(chosen.items()):
        groups[nearest].append(first[number][0])
    means = []
    for group in groups:
        total = sum(token.size for token in group)
        means.append(Token(sum(token.x * token.size for token in group) / total, total))  # type: ignore[arg-type]
    kept = [token for number, (token, _) in enumerate(first) if number not in chosen]
    return [*tokens[:classes], *kept, *means]


def layer(method: TempMe, i: int, tokens: list[Token], classes: int, count: int | float) -> list[Token]:
    """Layer ``i`` of CLIP with LoRA, attention in proportion to sizes, and merging before the MLP."""
    block: Any = method.backbone.vision.layers.blocks[i]
    update: Any = method.video[str(i)]
    x = torch.stack([token.x for token in tokens])
    h = block.ln_1(x)
    q, k, v = (h @ (block.attn.in_proj_weight + update.qkv.b @ update.qkv.a).T + block.attn.in_proj_bias).chunk(3, -1)
    heads, sizes, outs, keys = block.attn.num_heads, torch.tensor([float(token.size) for token in tokens]), [], []
    for of_q, of_k, of_v in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        logits = of_q @ of_k.T / of_q.shape[1] ** 0.5 + sizes.log()
        outs.append(logits.softmax(dim=-1) @ of_v)
        keys.append(of_k)
    x = x + block.attn.out_proj(torch.cat(outs, dim=-1))
    tokens = [Token(row, token.size) for row, token in zip(x, tokens, strict=True)]
    count = int(len(tokens) * count) if isinstance(count, float) else count
    count = min(count, (len(tokens) - classes) // 2)
    tokens = merge(tokens, list(sum(keys) / heads), classes, count)
    x = torch.stack([token.x for token in tokens])
    x = x + block.mlp(block.ln_2(x))
    return [Token(row, token.size) for row, token in zip(x, tokens, strict=True)]


def features(method: TempMe, frames: Tensor, order: list[int]) -> Tensor:
    """Features of the places of one video: ``float[T, 3, S, S] -> float[places, E]``. ``order`` is their frames."""
    tower, settings = method.backbone.vision, method.settings
    patches = tower.conv1(frames).flatten(2).transpose(1, 2)
    assert tower.class_embedding is not None
    x = torch.cat([tower.class_embedding.expand(len(frames), 1, -1), patches], dim=1) + tower.positional_embedding
    videos = [[Token(row) for row in tower.ln_pre(frame)] for frame in x]
    classes, groups = 1, dict(zip(method.merge_layers, settings.groups, strict=True))
    for i in range(method.spec.vision_layers):
        if i < method.merge_layers[0]:
            videos = [layer(method, i, tokens, classes, settings.image_merge) for tokens in videos]
            continue
        if i == method.merge_layers[0]:
            videos = [videos[frame] for frame in order]
        if i in groups:
            videos = [
                join(method, i, videos[start : start + groups[i]], classes, start)
                for start in range(0, len(videos), groups[i])
            ]
            classes *= groups[i]
        videos = [layer(method, i, tokens, classes, float(settings.token_share)) for tokens in videos]
    firsts = torch.stack([token.x for tokens in videos for token in tokens[:classes]])
    out: Tensor = tower.ln_post(firsts) @ tower.proj
    return out


def join(method: TempMe, i: int, parts: list[list[Token]], classes: int, start: int) -> list[Token]:
    """Neighbouring clips as one, with positions, and merging by the values before these."""
    positions = method.positions[method.merge_layers.index(i)]
    columns = [slice(0, classes), slice(classes, None)]
    raw = [token for part in columns for tokens in parts for token in tokens[part]]
    moved = [
        Token(token.x + positions[start + number], token.size)
        for part in columns
        for number, tokens in enumerate(parts)
        for token in tokens[part]
    ]
    classes *= len(parts)
    count = min(int(len(raw) * method.settings.clip_share), (len(raw) - classes) // 2)
    return merge(moved, [token.x for token in raw], classes, count)


def at(places: int, frames: int) -> list[int]:
    """The frame at each place."""
    return [place * frames // places for place in range(places)]


@pytest.mark.parametrize(
    ("frames", "changes", "lengths"),
    [
        (6, {"groups": [2, 3]}, [6, 6]),
        (5, {"groups": [2, 3], "merge_layers": [0, 2], "token_share": 0.3}, [5, 4, 1]),
        (8, {"groups": [2, 2, 2], "clip_share": 0.5}, [8, 3]),
        (7, {"groups": [3], "merge_layers": [3], "image_merge": 3}, [7, 2]),
    ],
)
def test_a_video_is_merged_token_by_token(frames: int, changes: dict[str, Any], lengths: list[int]) -> None:
    method = on_wide(frames, **changes)
    pixels, _ = clips(WIDE, len(lengths), frames)
    mask = torch.arange(frames) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        ours = method.frame_features(pixels, mask)
        for video, length in enumerate(lengths):
            order = at(method.places, length)
            theirs = features(method, pixels[video, :length], order)[[order.index(t) for t in range(length)]]
            assert (ours[video, :length] - theirs).abs().max() <= 2e-5


class Seen(Hooks):
    """Keeps the number of sequences and tokens after each layer. Makes the last layer compute all tokens."""

    whole_last_layer = True

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def after_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        self.sizes.append((x.shape[0], x.shape[1]))
        return x


def tokens_after(method: TempMe, frames: int) -> list[tuple[int, int]]:
    side, seen = method.spec.image_size, Seen()
    pixels = torch.empty(frames, 3, side, side, device="meta")
    with torch.no_grad():
        out = method.backbone.vision(pixels, Chain([method.vision_hooks(), seen]), Flow(frames))
    assert out.shape == (frames, method.spec.embed_dim)
    return seen.sizes


def test_tokens_after_each_layer_of_vit_b() -> None:
    """600 tokens of a video become 97, with the numbers of the authors' code."""
    with torch.device("meta"):
        method = build("tempme", {"lr": 6e-4}, meta_backbone("ViT-B-32"), frames=12, words=32)
    assert isinstance(method, TempMe)
    within = [(12, 48 - 2 * i) for i in range(8)]
    assert tokens_after(method, 12) == [*within, (6, 44), (3, 56), (1, 107), (1, 97)]
    # Eight frames take twelve places from the first joint layer on.
    assert tokens_after(method, 8) == [*((8, count) for _, count in within), (6, 44), (3, 56), (1, 107), (1, 97)]
    assert [tuple(rows.shape) for rows in method.positions] == [(12, 768), (6, 768), (3, 768)]


def test_the_whole_last_layer_gives_the_same_features() -> None:
    method = on_wide(6, groups=[2, 3])
    frames, mask = clips(WIDE, 2, 6)
    short = method.frame_features(frames, mask)
    long = method.backbone.vision(frames.flatten(0, 1), Chain([method.vision_hooks(), Seen()]), Flow(6, mask))
    valid = mask.flatten()
    assert (short.flatten(0, 1)[valid] - long[valid]).abs().max() <= 1e-6


def test_merging_written_out() -> None:
    """Three class tokens, so the even patches are second. Patch 1 equals patch 2, patch 3 is near patch 4."""
    x = torch.tensor([[9.0, 9], [8, 8], [7, 7], [1, 0], [0, 1], [0, 1], [1, 1], [4, 5]])[None]
    matches = matching(x, classes=3, count=1)
    values, sizes = merged(x, torch.tensor([[1.0, 1, 1, 1, 1, 3, 1, 1]]), matches)
    assert sizes.tolist() == [[1, 1, 1, 1, 1, 4, 1]]
    assert values[0].tolist() == [[9, 9], [8, 8], [7, 7], [1, 1], [1, 0], [0, 1], [4, 5]]
    # With four class tokens the first of the four patches is in the first set: it and the third find the last.
    y = torch.tensor([[0.0, 0]] * 4 + [[2, 2], [0, 1], [1, 1], [4, 4]])[None]
    values, sizes = merged(y, torch.tensor([[1.0] * 6 + [2, 1]]), matching(y, classes=4, count=2))
    assert sizes.tolist() == [[1, 1, 1, 1, 1, 4]]
    assert values[0, 4:].tolist() == [[0, 1], [2, 2]]


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_of_equal_patches_the_first_are_merged(noise: float) -> None:
    """Also if the last bits of equal cosines differ, as they do from batch to batch."""
    torch.manual_seed(0)
    same = torch.randn(32).expand(1, 41, -1) * (1 + noise * torch.randn(1, 41, 32))
    left = matching(same, classes=1, count=7)
    # Source patches 1, 3, 5, ... of 40: the first seven go into the first target.
    target = left[0, 1 + 13]
    assert target.nonzero().flatten().tolist() == [1, *range(2, 16, 2)]


def test_a_still_video_does_not_depend_on_its_batch() -> None:
    """All frames are equal, so all cosines between frames are: rounding must not choose what is merged."""
    method = on_wide(6, groups=[2, 3])
    still = clips(WIDE, 1, 1)[0].expand(1, 6, -1, -1, -1)
    others = clips(WIDE, 6, 6, seed=3)[0]
    with torch.no_grad():
        mask = torch.ones(1, 6, dtype=torch.bool)
        alone = method.encode_video(still, mask)
        together = method.encode_video(torch.cat([others, still]), mask.expand(7, -1))
    assert (alone[0] - together[6]).abs().max() <= 1e-6


def test_copies_of_a_video_have_the_same_bits() -> None:
    method = on_wide(6, groups=[2, 3])
    frames = clips(WIDE, 1, 6)[0].expand(4, -1, -1, -1, -1)
    with torch.no_grad():
        videos = method.encode_video(frames, torch.ones(4, 6, dtype=torch.bool))
    assert all(torch.equal(videos[0], other) for other in videos[1:])


def test_what_padding_shows_changes_no_bit() -> None:
    method = on_wide(6, groups=[2, 3])
    frames, mask = clips(WIDE, 4, 6)
    with torch.no_grad():
        first = method.encode_video(frames, mask)
        again = method.encode_video(torch.where(mask[..., None, None, None], frames, 99.0), mask)
    assert torch.equal(first, again)


def test_checkpointed_layers_give_the_same_gradients() -> None:
    def gradients(on: bool) -> list[Tensor]:
        method = on_wide(6, groups=[2, 3])
        frames, mask = clips(WIDE, 3, 6)
        with checkpointed(method.backbone, on):
            method.encode_video(frames, mask).pow(3).sum().backward()
        return [p.grad for p in method.video.parameters() if p.grad is not None] + [
            p.grad for p in method.positions if p.grad is not None
        ]

    plain, again = gradients(False), gradients(True)
    assert len(plain) == 4 * 2 + 2
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_a_step_changes_the_output() -> None:
    method = make("tempme", moved=False)
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    optimiser = torch.optim.AdamW(method.trainable().values(), lr=1e-2)
    before = [out.detach().clone() for out in method(*inputs)]
    for _ in range(2):
        optimiser.zero_grad()
        video, text = method(*inputs)
        F.cross_entropy(method.logit_scale * text @ video.T, torch.arange(4)).backward()
        optimiser.step()
    with torch.no_grad():
        assert all((a - b).abs().max() > 1e-4 for a, b in zip(before, method(*inputs), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": []}, "groups is empty"),
        ({}, r"tempme.groups: the vision tower has no layer for each group.*\[2, 2, 3\].*at most 2 groups"),
        ({"groups": [2, 3], "merge_layers": [1]}, r"do not go together.*\[1\].*2 different layers.*\[2, 3\]"),
        ({"groups": [2, 3], "merge_layers": [1, 1]}, r"do not go together.*\[1, 1\].*2 different layers"),
        ({"groups": [5], "merge_layers": [3]}, r"merge_layers: layer index out of range.*\[3\]"),
        ({"groups": [1, 3]}, "greater than or equal to 2"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("tempme", {"lr": 1e-2, **changes}, BACKBONE, frames=FRAMES, words=WORDS)


@pytest.mark.parametrize("other", ["mv_adapter", "vop", "discovla"])
def test_methods_that_look_for_frames_are_refused(other: str) -> None:
    parts = {"tempme": {"groups": [2, 3]}, "discovla": {"fusion_layers": 2}}
    raw = {"method": [other, "tempme"], "lr": 1e-2, **{k: v for k, v in parts.items() if k in (other, "tempme")}}
    with pytest.raises(ConfigError, match=rf"tempme merges tokens of the vision tower.*{other}.*leave one of them out"):
        build("pair", raw, BACKBONE, frames=FRAMES, words=WORDS)
