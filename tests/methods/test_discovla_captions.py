"""DiscoVLA with captions of frames: the fusion of captions and all three losses against plain loops, with padding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_discovla import LENGTHS, attend, features
from tiny_backbone import FRAMES, WORDS, clips
from torch import Tensor
from torch.nn import functional as F
from variants import BACKBONE, make

from components.backbones.towers import checkpointed
from components.errors import ConfigError
from components.methods.build import build
from components.methods.discovla import DiscoVLA
from components.training.loss import info_nce, nce_of_scores, scaled_scores

WORDS_OF = ["a", "red", "circle", "moves", "left", "and", "then", "it", "grows", "very", "slowly"]
CAPTIONED: dict[str, Any] = {"captions": True, "text_fusion_layers": 2}


def captioned(**changes: Any) -> DiscoVLA:
    method = make("discovla", **CAPTIONED, **changes)
    assert isinstance(method, DiscoVLA)
    return method


def captions_of(length: int, video: int) -> list[str]:
    """Captions of different lengths, each of other words."""
    return [" ".join(WORDS_OF[(video + t) % 5 : (video + t) % 5 + 1 + (video + 2 * t) % 6]) for t in range(length)]


def tokens() -> Tensor:
    """``int64[4, T, L]``. The captions of padding are words too, which must not count."""
    texts = [captions_of(FRAMES, video) for video in range(4)]
    return torch.stack([BACKBONE.tokenize(of_video, WORDS) for of_video in texts])


def caption_features(method: DiscoVLA, captions: Tensor) -> Tensor:
    """Features of the captions of one video, without padding: ``int64[T, L] -> float[T, E]``."""
    tower, ends = method.backbone.text, captions.argmax(dim=1).tolist()
    rows = [tower.token_embedding(c[: end + 1]) for c, end in zip(captions, ends, strict=True)]
    rows = [x + tower.positional_embedding[: len(x)] for x in rows]
    for i in range(method.spec.text_layers):
        block: Any = tower.layers.blocks[i]
        update: Any = method.text[str(i)]
        weight = block.attn.in_proj_weight + update.qkv.b @ update.qkv.a
        heads = block.attn.num_heads
        qkvs = [F.linear(block.ln_1(x), weight, block.attn.in_proj_bias).chunk(3, dim=-1) for x in rows]
        every_k, every_v = (torch.cat([qkv[part] for qkv in qkvs]) for part in (1, 2))
        for t, (q, k, v) in enumerate(qkvs):
            a = torch.cat([attend(q[n : n + 1], k[: n + 1], v[: n + 1], heads) for n in range(len(q))])
            a = block.attn.out_proj(a)
            if str(i) in method.text_fusion:
                adapter: Any = method.text_fusion[str(i)]
                u = a[-1:] @ adapter.down.weight.T + adapter.down.bias
                u = (u * torch.sigmoid(1.702 * u)) @ adapter.up.weight.T + adapter.up.bias
                a = torch.cat([a[:-1], block.attn.out_proj(attend(q[-1:], every_k, every_v, heads)) + u])
            rows[t] = rows[t] + a
            rows[t] = rows[t] + block.mlp(block.ln_2(rows[t]))
    out: Tensor = tower.ln_final(torch.stack([x[-1] for x in rows])) @ tower.text_projection
    return out


def image_score(captions: Tensor, frames: Tensor) -> Tensor:
    """The score of a video's captions ``float[t, E]``, scaled, with a video's frames ``float[u, E]``."""
    pairs = [[float(c @ f) for f in frames.double()] for c in captions.double()]
    of_captions = [max(row) for row in pairs]
    of_frames = [max(column) for column in zip(*pairs, strict=True)]
    halves = []
    for scores in (of_captions, of_frames):
        total = sum(math.exp(s) for s in scores)
        halves.append(sum(math.exp(s) / total * s for s in scores))
    return torch.tensor(sum(halves) / 2)


def distil(video: list[list[float]], image: list[list[float]]) -> float:
    """100 times the mean over entries of the image scores' probability times the difference of the logarithms."""

    def by_rows(q_scores: list[list[float]], p_scores: list[list[float]]) -> float:
        total = 0.0
        for q_row, p_row in zip(q_scores, p_scores, strict=True):
            q_all, p_all = (math.log(sum(math.exp(s) for s in row)) for row in (q_row, p_row))
            for q, p in zip(q_row, p_row, strict=True):
                total += math.exp(p - p_all) * ((p - p_all) - (q - q_all))
        return 100 * total / len(q_scores) ** 2

    turned: Any = [[list(column) for column in zip(*scores, strict=True)] for scores in (video, image)]
    return (by_rows(video, image) + by_rows(*turned)) / 2


@pytest.mark.parametrize("changes", [{}, {"text_fusion_layers": 1}, {"text_fusion_layers": 3, "bottleneck": 3}])
def test_end_tokens_attend_across_captions(changes: dict[str, Any]) -> None:
    method = make("discovla", **{**CAPTIONED, **changes})
    assert isinstance(method, DiscoVLA)
    _, mask = clips(BACKBONE)
    captions = tokens()
    with torch.no_grad():
        ours = method.caption_features(captions, mask)
        for video, length in enumerate(LENGTHS):
            assert (ours[video, :length] - caption_features(method, captions[video, :length])).abs().max() <= 2e-5


def test_the_losses_are_those_of_plain_loops() -> None:
    method = captioned(image_weight=0.7, distil_weight=2.0)
    frames, mask = clips(BACKBONE)
    captions, queries = tokens(), BACKBONE.tokenize(["a b", "c d e", "red", "it turns"], WORDS)
    assert method.caption_loss is not None
    with torch.no_grad():
        of_frames = [F.normalize(features(method, clip[:n]), dim=-1) for clip, n in zip(frames, LENGTHS, strict=True)]
        of_captions = [
            F.normalize(caption_features(method, texts[:n]), dim=-1) for texts, n in zip(captions, LENGTHS, strict=True)
        ]
        texts = method.encode_text(queries)
        videos = torch.stack([F.normalize(clip.sum(dim=0), dim=0) for clip in of_frames])
        scale = method.logit_scale
        logits = scale * texts @ videos.T
        image = torch.stack([torch.stack([image_score(scale * c, f) for f in of_frames]) for c in of_captions]).float()
        pairs = torch.arange(4)
        expected_image = (F.cross_entropy(image, pairs) + F.cross_entropy(image.T, pairs)) / 2
        expected = 0.7 * float(expected_image) + 2.0 * distil(logits.tolist(), image.tolist())

        rows = method.caption_loss.rows(method.frame_features(frames, mask), mask, captions)
        assert rows.shape == (4, method.caption_loss.width)
        ours = scaled_scores(method.encode_video(frames, mask), texts, scale)
        found = method.caption_loss.loss(ours, rows, lambda scores: nce_of_scores(scores, pairs))
    assert abs(float(found) - expected) <= 1e-3 * abs(expected)
    assert expected > 0.1
    whole = info_nce(method.encode_video(frames, mask), texts, scale) + found
    assert float(whole.detach()) > float(found)


def test_every_parameter_learns_also_through_the_teacher() -> None:
    def gradients(on: bool) -> dict[str, Tensor]:
        method = captioned()
        frames, mask = clips(BACKBONE)
        assert method.caption_loss is not None
        with checkpointed(method.backbone, on):
            rows = method.caption_loss.rows(method.frame_features(frames, mask), mask, tokens())
            # L_distil alone: only its teacher depends on the captions.
            flat = torch.zeros(4, 4)
            method.caption_loss.loss(flat, rows, lambda scores: scores.sum() * 0).backward()
        return {name: p.grad for name, p in method.trainable().items() if p.grad is not None}

    plain, again = gradients(False), gradients(True)
    assert plain.keys() == captioned().trainable().keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert all(float(gradient.abs().max()) > 0 for gradient in plain.values())


def test_a_video_without_a_valid_frame_has_zero_scores() -> None:
    method = captioned()
    frames, mask = clips(BACKBONE)
    mask[2] = False
    assert method.caption_loss is not None
    rows = method.caption_loss.rows(method.frame_features(frames, mask), mask, tokens())
    seen: list[Tensor] = []

    def contrast(scores: Tensor) -> Tensor:
        seen.append(scores)
        return nce_of_scores(scores, torch.arange(4))

    loss = method.caption_loss.loss(torch.zeros(4, 4), rows, contrast)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in method.trainable().values())
    (image,) = seen
    assert not image[2].any()
    assert not image[:, 2].any()
    assert bool(image[[0, 1, 3]][:, [0, 1, 3]].all())


def test_videos_and_texts_are_embedded_without_captions() -> None:
    method, without = captioned(), make("discovla")
    without.load_state_dict({k: v for k, v in method.state_dict().items() if "text_fusion" not in k}, strict=True)
    frames, mask = clips(BACKBONE)
    assert torch.equal(method.encode_video(frames, mask), without.encode_video(frames, mask))
    queries = BACKBONE.tokenize(WORDS_OF[:4], WORDS)
    assert torch.equal(method.encode_text(queries), without.encode_text(queries))


def test_more_text_fusion_layers_than_layers() -> None:
    raw = {"lr": 1e-2, "fusion_layers": 2, "captions": True, "text_fusion_layers": 4}
    with pytest.raises(ConfigError, match=r"discovla.text_fusion_layers: more.*text tower.*found 4.*at most 3"):
        build("discovla", raw, BACKBONE, frames=FRAMES, words=WORDS)


@pytest.mark.parametrize("other", ["lora", "late", "coop"])
def test_captions_of_frames_are_trained_alone(other: str) -> None:
    raw = {"method": ["discovla", other], "lr": 1e-2, "discovla": {"fusion_layers": 2, **CAPTIONED}}
    raw |= {"coop": {"prompts": 2}} if other == "coop" else {}
    with pytest.raises(ConfigError, match=r"pair\.discovla\.captions|discovla\+.*discovla\.captions.*captions: false"):
        build("pair", raw, BACKBONE, frames=FRAMES, words=WORDS)
    raw["discovla"] = {"fusion_layers": 2}
    build("pair", raw, BACKBONE, frames=FRAMES, words=WORDS)
