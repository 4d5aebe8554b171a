"""Every family computes what open_clip computes: small sizes, and every published name in scope at two layers."""

from __future__ import annotations

import functools
from typing import Any

import open_clip
import pytest
import timm
import torch
from families import CONFIGS, apart, family_backbone, open_clip_model, randomised, tokenizer_of
from PIL import Image
from torch import nn

from components.backbones.clip import Backbone
from components.backbones.families import FAMILIES, family_of
from components.backbones.hooks import Flow, Hooks
from components.backbones.load import create, usual_preprocess, vision_family
from components.errors import BackboneError

TEXTS = ["a red circle moves to the left", "it turns", "two green triangles appear and grow"]

# Published names whose towers are in scope: timm's, and those of open_clip that CLIP's own code path does not cover.
PUBLISHED = [
    name for name in open_clip.list_models()
    if name.startswith(("PE-Core", "MobileCLIP2-B", "MobileCLIP2-L", "MobileCLIP-B"))
    or "SigLIP" in name or "worldwide" in name or name.startswith("ViT-H-14-378")
]  # fmt: skip
# One for each kind of tower runs by default; all of them with `make exhaustive`.
KINDS = [
    "PE-Core-T-16-384", "PE-Core-B-16", "ViT-B-16-SigLIP", "ViT-B-32-SigLIP2-256", "MobileCLIP2-B", "MobileCLIP2-L-14",
    "ViT-H-14-worldwide-quickgelu",
]  # fmt: skip


def compare(model: Any, backbone: Backbone) -> tuple[float, float]:
    torch.manual_seed(1)
    size = backbone.spec.image_size
    frames = torch.randn(2, 3, size, size)
    tokens = backbone.tokenize(TEXTS, backbone.spec.context_length)
    with torch.no_grad():
        return (
            apart(backbone.vision(frames), model.encode_image(frames)),
            apart(backbone.text(tokens), model.encode_text(tokens)),
        )


@pytest.mark.parametrize("name", list(CONFIGS))
def test_small_models_equal_open_clip(name: str) -> None:
    image, text = compare(open_clip_model(name), family_backbone(name))
    assert image <= 5e-6
    assert text <= 5e-6


def shallow(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, dict[str, Any]]:
    """open_clip's published model with two layers a tower and a short vocabulary."""
    raw = open_clip.get_model_config(name)
    assert raw is not None
    raw["text_cfg"] |= {"layers": 2, "vocab_size": 49408}
    if raw["text_cfg"].get("pool_type") == "eos":
        raw["text_cfg"]["eos_id"] = 49407
    if "timm_model_name" in raw["vision_cfg"]:
        monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, depth=2))
    else:
        raw["vision_cfg"]["layers"] = 2
    return randomised(create(name, raw, bool(raw.get("quick_gelu")))), raw


def check_published(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, raw = shallow(name, monkeypatch)
    backbone = Backbone(model, name, tokenizer_of(name), None, vision_family(name, raw))
    image, text = compare(model, backbone)
    assert image <= 1e-5
    assert text <= 1e-5
    assert backbone.spec.patches == backbone.vision.positional_embedding.shape[0] - (
        backbone.spec.class_token and not name.startswith(("MobileCLIP2-B", "MobileCLIP-B"))
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_published_size_of_each_kind_equals_open_clip(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_published(name, monkeypatch)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in KINDS])
def test_published_sizes_equal_open_clip(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_published(name, monkeypatch)


@pytest.mark.parametrize(
    ("name", "millions"),
    # Totals of open_clip's table of models (docs/model_profile.csv): both towers, the logit scale and bias.
    [("ViT-B-16-SigLIP", 203.16), ("PE-Core-B-16", 448.3), ("MobileCLIP2-B", 149.6), ("ViT-H-14-worldwide", 1858.8)],
)
def test_counts_by_name_on_the_meta_device(name: str, millions: float) -> None:
    raw = open_clip.get_model_config(name)
    assert raw is not None
    with torch.device("meta"):
        model = create(name, raw, False)
        backbone = Backbone(model, name, tokenizer_of(name), None, vision_family(name, raw))
    total = sum(parameter.numel() for parameter in backbone.parameters())
    assert total == sum(parameter.numel() for parameter in model.parameters())
    assert total / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("name", ["clip", "metaclip2", "pe_core", "pe_core_without_class"])
def test_short_texts_equal_full_ones_in_causal_towers(name: str) -> None:
    backbone = family_backbone(name)
    short, full = backbone.tokenize(TEXTS, 12), backbone.tokenize(TEXTS, 20)
    assert short.shape[1] == 12
    assert apart(backbone.text(short), backbone.text(full)) <= 2e-6


@pytest.mark.parametrize("name", ["siglip", "mobileclip"])
def test_texts_fill_the_context_where_padding_is_attended_to(name: str) -> None:
    backbone = family_backbone(name)
    tokens = backbone.tokenize(TEXTS, 12)
    assert tokens.shape[1] == backbone.spec.context_length == backbone.text_length(12)
    assert backbone.tokenize([TEXTS[2]], 4)[0].tolist()[3] == backbone.tokenizer.eot_token_id
    if name == "siglip":
        assert tokens[1, -1] == 7
        assert tokens[0, 0] != 49406


class _Joint(Hooks):
    """Joins the frames of a video before the second layer."""

    def before_layer(self, i: int, x: torch.Tensor, flow: Flow) -> torch.Tensor:
        return flow.join(x) if i == 1 and flow.frames > 1 else x


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_joint_layout_of_equal_frames_equals_single_ones(name: str) -> None:
    """Attention over copies of one frame is attention over the frame, with rotary positions and pooling too."""
    backbone = family_backbone(name)
    torch.manual_seed(2)
    frame = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        joint = backbone.vision(frame.repeat(3, 1, 1, 1), _Joint(), Flow(frames=3))
        assert apart(joint, backbone.vision(frame).expand(3, -1)) <= 5e-6


class _Prompted(Hooks):
    def __init__(self, prompts: torch.Tensor) -> None:
        self.prompts = prompts

    def before_layer(self, i: int, x: torch.Tensor, flow: Flow) -> torch.Tensor:
        return flow.exchange(x, self, self.prompts.expand(x.shape[0], -1, -1) if i == 1 else None)


@pytest.mark.parametrize("name", ["pe_core", "pe_core_without_class"])
def test_prompts_have_no_place_in_the_picture(name: str) -> None:
    """Rotary positions turn patches only, wherever prompts move them."""
    rotary, prefix = family_backbone(name).vision.layers.rotary, family_backbone(name).vision.prefix
    assert rotary is not None
    torch.manual_seed(3)
    x = torch.randn(2, prefix + 4, 32)
    flow = Flow(prefix=prefix)
    with_prompts = flow.exchange(x, Hooks(), torch.randn(2, 3, 32))
    q = x.view(2, -1, 2, 16).transpose(1, 2)
    longer = with_prompts.view(2, -1, 2, 16).transpose(1, 2)
    turned = rotary(longer, longer, flow)[0]
    plain = rotary(q, q, Flow(prefix=prefix))[0]
    assert torch.equal(turned[:, :, [*range(prefix), *range(prefix + 3, prefix + 7)]], plain)
    assert torch.equal(turned[:, :, prefix : prefix + 3], longer[:, :, prefix : prefix + 3])
    assert torch.equal(plain[:, :, :prefix], q[:, :, :prefix])
    assert not torch.equal(plain[:, :, prefix + 1 :], q[:, :, prefix + 1 :])
    assert torch.allclose(plain.norm(dim=-1), q.norm(dim=-1), atol=1e-5)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_prompts_are_not_pooled(name: str) -> None:
    """Prompts that no token attends to, since they leave before the next layer, change only what attended to them."""
    backbone = family_backbone(name)
    frames = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        one = backbone.vision(frames, _Prompted(torch.randn(3, 32)))
        other = backbone.vision(frames, _Prompted(torch.randn(3, 32)))
    assert one.shape == other.shape == backbone.vision(frames).shape
    assert apart(one, other) > 1e-4


@pytest.mark.parametrize("name", list(CONFIGS))
def test_towers_stay_in_evaluation_mode(name: str) -> None:
    backbone = family_backbone(name)
    assert backbone.train() is backbone
    assert not any(module.training for module in backbone.modules())


def test_other_towers_are_refused_with_the_reason() -> None:
    raw = {**CONFIGS["pe_core"]}
    for name, sizes, reason in [
        ("eva02_base_patch16_clip_224", {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}, "at once"),
        ("eva_giant_patch14_224", {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}, "no bias"),
        ("vit_small_patch16_18x2_224", {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}, "pre-norm"),
    ]:
        vision = {**raw["vision_cfg"], "timm_model_name": name, "timm_pool": "token", "timm_kwargs": sizes}
        config = {**raw, "vision_cfg": vision}
        with pytest.raises(BackboneError, match=reason):
            Backbone(create(name, config), name, tokenizer_of(name), None, vision_family(name, config))


def test_every_registered_family_is_covered() -> None:
    assert {family_of(config) for config in CONFIGS.values()} == set(FAMILIES)


class TestFrames:
    def test_squash_keeps_what_a_crop_of_the_centre_loses(self) -> None:
        model = open_clip_model("siglip")
        pixels = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "squash"}
        squash = Backbone(model, "siglip", tokenizer_of("siglip"), pixels, "timm_vit")
        rows, columns = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
        picture = torch.stack([rows * 6, columns * 4, (rows + columns) * 2]).clamp(max=255).to(torch.uint8)
        theirs = open_clip.image_transform(16, is_train=False, **pixels)(
            Image.fromarray(picture.permute(1, 2, 0).numpy())
        )
        ours = squash.preprocess(picture[None])[0]
        # One step of 255 is 0.008 after normalisation, and the two resizers round differently.
        assert float((ours - theirs).abs().max()) < 0.02
        assert squash.spec.differences(family_backbone("siglip").spec) == ["mean", "std", "resize"]

    def test_files_get_what_all_tags_of_the_model_say(self) -> None:
        siglip, clip = usual_preprocess("ViT-B-16-SigLIP2"), usual_preprocess("ViT-B-32")
        assert (siglip["resize_mode"], siglip["mean"]) == ("squash", (0.5, 0.5, 0.5))
        assert (clip["resize_mode"], clip["mean"]) == ("shortest", open_clip.OPENAI_DATASET_MEAN)
        assert usual_preprocess("PE-Core-B-16")["interpolation"] == "bilinear"
        # Tags of ViT-H-14 disagree on it, so a file gets CLIP's crop.
        assert "resize_mode" not in usual_preprocess("ViT-H-14")
        assert usual_preprocess("mini") == {}
