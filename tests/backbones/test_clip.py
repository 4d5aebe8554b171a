"""The forward pass against open_clip's, tokens, pixels and the hash of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from tiny_backbone import CONFIG, TEXTS, make_backbone

from components.backbones.clip import Backbone, parameter_total
from components.backbones.load import create, model_config
from components.backbones.weights import weights_sha256
from components.errors import BackboneError

ROOT = Path(__file__).parents[2]


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


def compare(model: Any, name: str, tokenizer: Any) -> tuple[float, float]:
    """Largest differences of image and text features from open_clip's, for one frame and one text."""
    backbone = Backbone(model.eval(), name, tokenizer)
    torch.manual_seed(1)
    frame = torch.randn(1, 3, backbone.spec.image_size, backbone.spec.image_size)
    tokens = backbone.tokenize(TEXTS[:1], backbone.spec.context_length)
    with torch.no_grad():
        return (
            apart(backbone.vision(frame), model.encode_image(frame)),
            apart(backbone.text(tokens), model.encode_text(tokens)),
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-B-16", "ViT-L-14"])
def test_published_sizes_equal_open_clip(name: str) -> None:
    raw, tokenizer = model_config(name, ROOT)
    torch.manual_seed(0)
    model = create(name, raw, bool(raw.get("quick_gelu")))
    image, text = compare(model, name, tokenizer())
    assert image <= 1e-5
    assert text <= 1e-5


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("positions", ["sin_cos_2d", "learnable"])
def test_small_models_equal_open_clip(custom_text: bool, quick_gelu: bool, positions: str) -> None:
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    torch.manual_seed(0)
    model = kind(
        embed_dim=24,
        vision_cfg={**CONFIG["vision_cfg"], "pos_embed_type": positions},
        text_cfg=dict(CONFIG["text_cfg"]),
        quick_gelu=quick_gelu,
    )
    image, text = compare(model, "tiny", open_clip.SimpleTokenizer())
    assert image <= 2e-6
    assert text <= 2e-6


def test_both_classes_of_open_clip_give_one_spec() -> None:
    torch.manual_seed(0)
    kinds = [
        kind(24, dict(CONFIG["vision_cfg"]), dict(CONFIG["text_cfg"]))
        for kind in (open_clip.CLIP, open_clip.CustomTextCLIP)
    ]
    kinds[1].load_state_dict(open_clip.factory.convert_to_custom_text_state_dict(kinds[0].state_dict()))
    specs = [Backbone(kind, "tiny", open_clip.SimpleTokenizer()).spec for kind in kinds]
    assert specs[0] == specs[1]


def test_texts_shorter_than_the_context_equal_full_ones() -> None:
    backbone = make_backbone()
    short, full = backbone.tokenize(TEXTS, 10), backbone.tokenize(TEXTS, 20)
    assert apart(backbone.text(short), backbone.text(full)) <= 1e-6


def test_everything_is_frozen_and_counted() -> None:
    backbone = make_backbone()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    raw = create("tiny", CONFIG)
    assert parameter_total(backbone) == sum(p.numel() for p in raw.parameters())
    assert backbone.fixed == {"vision.positional_embedding"}
    assert make_backbone(learned_positions=True).fixed == frozenset()


class TestTokenize:
    def test_equals_open_clip_where_nothing_is_cut(self) -> None:
        backbone = make_backbone()
        assert torch.equal(backbone.tokenize(TEXTS, 20), open_clip.SimpleTokenizer()(TEXTS, 20))

    def test_cut_texts_keep_start_and_end(self) -> None:
        backbone = make_backbone()
        tokenizer = backbone.tokenizer
        pieces = tokenizer.encode(TEXTS[2])
        row = backbone.tokenize([TEXTS[2]], 5)[0].tolist()
        assert row == [tokenizer.sot_token_id, *pieces[:3], tokenizer.eot_token_id]

    def test_empty_text_and_no_text(self) -> None:
        backbone = make_backbone()
        start, end = backbone.tokenizer.sot_token_id, backbone.tokenizer.eot_token_id
        assert backbone.tokenize([""], 4).tolist() == [[start, end, 0, 0]]
        assert backbone.tokenize([], 4).shape == (0, 4)

    @pytest.mark.parametrize("words", [2, 21])
    def test_words_out_of_range(self, words: int) -> None:
        with pytest.raises(BackboneError, match=f"found {words}; expected 3 to 20"):
            make_backbone().tokenize(TEXTS, words)


class TestPreprocess:
    def test_close_to_open_clip_on_images(self) -> None:
        backbone = make_backbone()
        rows, columns = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
        picture = torch.stack([rows * 6, columns * 4, (rows + columns) * 2]).clamp(max=255).to(torch.uint8)
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        theirs = open_clip.image_transform(16, is_train=False)(image)
        ours = backbone.preprocess(picture[None])[0]
        assert ours.shape == (3, 16, 16)
        # One step of 255 is 0.015 after normalisation, and the two resizers round differently.
        assert apart(ours, theirs) < 0.04

    def test_frames_of_the_input_size_are_not_resampled(self) -> None:
        backbone = make_backbone()
        frames = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
        assert backbone.resize(frames) is frames
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.spec.mean, backbone.spec.std))
        assert apart(backbone.normalize(frames), (frames / 255 - mean) / std) < 1e-5

    def test_resize_keeps_bytes_and_crops_the_centre(self) -> None:
        frames = torch.zeros(1, 3, 16, 48, dtype=torch.uint8)
        frames[..., 16:32] = 200
        out = make_backbone().resize(frames)
        assert out.dtype == torch.uint8
        assert torch.equal(out, torch.full_like(out, 200))


def test_hash_follows_a_single_bit() -> None:
    backbone = make_backbone()
    before = weights_sha256(backbone)
    with torch.no_grad():
        backbone.logit_scale.add_(1e-6)
    assert weights_sha256(backbone) != before
