"""Every method runs on every family of backbones, or refuses with a sentence that says why."""

from __future__ import annotations

import pytest
import torch
from families import CONFIGS, family_backbone
from tiny_backbone import FRAMES, TEXTS, WORDS, clips
from torch.nn import functional as F
from variants import NEEDED

from components.backbones.clip import Backbone
from components.errors import ConfigError
from components.methods import METHODS
from components.methods.base import Method, mean_pool
from components.methods.build import build

# What a family cannot take, and why.
REFUSED = {("coop", family): "do not fit" for family in ("siglip", "mobileclip")} | {
    (method, family): "acts on the class token that is read out"
    for method in ("tempme", "discovla", "dgl", "stop")
    for family in ("siglip", "pe_core", "pe_core_without_class")
}

BACKBONES: dict[str, Backbone] = {}


def backbone_of(family: str) -> Backbone:
    if family not in BACKBONES:
        BACKBONES[family] = family_backbone(family)
    return BACKBONES[family]


def make(name: str, family: str) -> Method:
    lr = {} if name == "zero_shot" else {"lr": 1e-2}
    torch.manual_seed(4)
    return build(name, {**lr, **NEEDED.get(name, {})}, backbone_of(family), frames=FRAMES, words=WORDS)


def embed(method: Method) -> tuple[torch.Tensor, torch.Tensor]:
    frames, mask = clips(method.backbone)
    return method(frames, mask, method.backbone.tokenize(TEXTS, method.words))


@pytest.mark.parametrize("family", list(CONFIGS))
@pytest.mark.parametrize("name", list(METHODS))
def test_trains_on_every_family(name: str, family: str) -> None:
    if (name, family) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[name, family]):
            make(name, family)
        return
    method = make(name, family)
    video, text = embed(method)
    if method.starts_as_identity:
        expected_video, expected_text = plain(method.backbone)
        assert torch.allclose(video, expected_video, atol=2e-5)
        assert torch.allclose(text, expected_text, atol=2e-5)
    parameters = method.trainable()
    if name == "zero_shot":
        assert not parameters
        return
    (1 - method.similarity.rows(text, video)).sum().backward()
    still = [key for key, value in parameters.items() if value.grad is None]
    assert not still, f"no gradient reaches {still}"
    with torch.no_grad():
        for key, value in parameters.items():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(key))) * 0.02)
        moved = embed(method)
    assert not all(torch.allclose(after, before, atol=1e-4) for after, before in zip(moved, (video, text), strict=True))
    assert torch.isfinite(moved[0]).all()
    assert torch.isfinite(moved[1]).all()


def plain(backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """CLIP4Clip's mean of frames and the text, by the towers alone."""
    frames, mask = clips(backbone)
    with torch.no_grad():
        features = backbone.vision(frames.flatten(0, 1)).view(*mask.shape, -1)
        return mean_pool(features, mask), F.normalize(backbone.text(backbone.tokenize(TEXTS, WORDS)), dim=-1)


@pytest.mark.parametrize("family", ["siglip", "pe_core_without_class"])
@pytest.mark.parametrize("name", ["mv_adapter", "vop_fpc", "st_adapter", "vop_f"])
def test_padding_and_company_change_nothing_without_a_class_token(name: str, family: str) -> None:
    method = make(name, family)
    with torch.no_grad():
        for value in method.trainable().values():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
        frames, mask = clips(method.backbone)
        together = method.encode_video(frames, mask)
        noisy = torch.where(mask[:, :, None, None, None], frames, torch.full_like(frames, 9.0))
        assert torch.allclose(method.encode_video(noisy, mask), together, atol=1e-5)
        for i in range(len(mask)):
            length = int(mask[i].sum())
            alone = method.encode_video(frames[i : i + 1, :length], mask[i : i + 1, :length])
            assert torch.allclose(alone[0], together[i], atol=1e-5)


@pytest.mark.parametrize("family", ["siglip", "pe_core_without_class"])
def test_order_of_frames_matters_without_a_class_token(family: str) -> None:
    method = make("mv_adapter", family)
    with torch.no_grad():
        for value in method.trainable().values():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(2)) * 0.2)
        frames, _ = clips(method.backbone, videos=1)
        mask = torch.ones(1, FRAMES, dtype=torch.bool)
        forward, backward = method.encode_video(frames, mask), method.encode_video(frames.flip(1), mask)
    assert not torch.allclose(forward, backward, atol=1e-3)


def test_a_tie_on_class_tokens_is_refused_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match="the tie acts on class tokens"):
        build(
            "mv_adapter", {"lr": 1e-2, "tie": "down_in_class"}, backbone_of("siglip"),
            frames=FRAMES, words=WORDS,
        )  # fmt: skip


def test_a_projection_that_is_a_map_trains_with_its_bias() -> None:
    assert set(make("proj", "siglip").trainable()) == {
        "backbone.text.text_projection.weight", "backbone.text.text_projection.bias",
    }  # fmt: skip
    assert set(make("proj", "pe_core").trainable()) == {
        "backbone.vision.proj.weight", "backbone.vision.proj.bias", "backbone.text.text_projection",
    }  # fmt: skip
