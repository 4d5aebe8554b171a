"""The forward pass against open_clip's, and how a backbone is loaded or refused."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_backbone import CONFIG, TEXTS, make_backbone

from components.backbones import load as loading
from components.backbones.clip import Backbone, parameter_total
from components.backbones.load import create, load_backbone, model_config
from components.backbones.settings import BackboneSettings
from components.backbones.spec import BackboneSpec
from components.backbones.weights import weights_sha256
from components.errors import BackboneError, DataError
from components.records import make_record

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


@pytest.mark.filterwarnings("ignore:.torch.jit.:FutureWarning")
class TestLoad:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        (tmp_path / "tiny.json").write_text(json.dumps(CONFIG))
        torch.manual_seed(5)
        model = create("tiny", CONFIG)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        save_file(state, tmp_path / "plain.safetensors")
        torch.save(
            {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}},
            tmp_path / "wrapped.pt",
        )
        torch.save(open_clip.factory.convert_to_custom_text_state_dict(state), tmp_path / "custom.pt")
        torch.save({name: value.half().float() for name, value in state.items()}, tmp_path / "other.pt")
        torch.jit.save(torch.jit.script(_Holder(model)), tmp_path / "script.pt")
        return tmp_path

    def load(self, root: Path, name: str, **changes: Any) -> Backbone:
        return load_backbone(BackboneSettings(**{"model": "tiny.json", "pretrained": name, **changes}), root)

    def test_one_spec_however_the_weights_are_stored(self, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("network used for a local file")

        monkeypatch.setattr(socket, "socket", refuse)
        names = ("plain.safetensors", "wrapped.pt", "custom.pt", "script.pt")
        specs = [self.load(saved, name).spec for name in names]
        assert all(spec == specs[0] for spec in specs)
        assert specs[0].model == "tiny.json"
        assert self.load(saved, "other.pt").spec.weights_sha256 != specs[0].weights_sha256

    def test_spec_round_trip_and_differences(self, saved: Path) -> None:
        spec = self.load(saved, "plain.safetensors").spec
        assert make_record(json.loads(json.dumps(spec.to_dict())), BackboneSpec, "card") == spec
        forced = self.load(saved, "plain.safetensors", quick_gelu=True).spec
        assert forced.quick_gelu
        assert spec.differences(forced) == ["quick_gelu"]
        with pytest.raises(DataError, match=r"(?s)card: 1 fault.*vision_width.*'wide'"):
            make_record({**spec.to_dict(), "vision_width": "wide"}, BackboneSpec, "card")

    def test_smaller_images_resize_the_positions(self, saved: Path) -> None:
        raw = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "image_size": 32, "pos_embed_type": "learnable"}}
        (saved / "large.json").write_text(json.dumps(raw))
        assert self.load(saved, "plain.safetensors", model="large.json").spec.patches == 16

    @pytest.mark.parametrize(
        "model", ["RN50", "convnext_base", "MobileCLIP2-S0", "roberta-ViT-B-32", "coca_ViT-B-32", "EVA02-E-14"]
    )
    def test_other_towers_are_refused_by_name(self, saved: Path, model: str) -> None:
        with pytest.raises(BackboneError, match="unsupported backbone") as caught:
            self.load(saved, "plain.safetensors", model=model)
        assert model in str(caught.value)
        assert "ViT-B-32" in str(caught.value)

    def test_towers_that_only_the_built_model_shows(self) -> None:
        raw = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "pool_type": "avg"}}
        with pytest.raises(BackboneError, match="pools patches"):
            Backbone(create("tiny", raw), "tiny", open_clip.SimpleTokenizer())
        raw = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "pool_type": "first"}}
        with pytest.raises(BackboneError, match="read out by 'first'"):
            Backbone(create("tiny", raw), "tiny", open_clip.SimpleTokenizer())

    def test_wrong_name_gets_the_nearest(self, saved: Path) -> None:
        with pytest.raises(BackboneError, match="did you mean ViT-B-32"):
            self.load(saved, "plain.safetensors", model="ViTB32")

    def test_missing_weights_name_file_and_tags(self, saved: Path) -> None:
        with pytest.raises(BackboneError, match=r"nothing\.safetensors"):
            self.load(saved, "nothing.safetensors")
        with pytest.raises(BackboneError, match="laion2b_s34b_b79k"):
            self.load(saved, "laion3b", model="ViT-B-32")

    def test_tokenizer_beyond_the_text_tower(self, saved: Path) -> None:
        small = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "vocab_size": 100}}
        (saved / "small.json").write_text(json.dumps(small))
        torch.save(create("small", small).state_dict(), saved / "small.pt")
        with pytest.raises(BackboneError, match="found 49408; expected at most 100"):
            self.load(saved, "small.pt", model="small.json")

    def test_damaged_and_foreign_weights(self, saved: Path) -> None:
        for name in ("broken.safetensors", "broken.pt"):
            (saved / name).write_bytes(b"not weights at all")
            with pytest.raises(BackboneError, match="cannot be read"):
                self.load(saved, name)
        torch.save({"layer.weight": torch.zeros(2)}, saved / "foreign.pt")
        with pytest.raises(BackboneError, match="another model"):
            self.load(saved, "foreign.pt")
        torch.save([1, 2], saved / "list.pt")
        with pytest.raises(BackboneError, match="not a state dict"):
            self.load(saved, "list.pt")
        (saved / "wide.json").write_text(json.dumps({**CONFIG, "embed_dim": 32}))
        with pytest.raises(BackboneError, match="another shape"):
            self.load(saved, "plain.safetensors", model="wide.json")

    def test_tags_that_need_quick_gelu_get_it(self) -> None:
        openai = open_clip.get_pretrained_cfg("ViT-B-32", "openai")
        laion = open_clip.get_pretrained_cfg("ViT-B-32", "laion2b_s34b_b79k")
        settings = BackboneSettings(model="ViT-B-32", pretrained="openai")
        assert loading.needs_quick_gelu(settings, {}, openai)
        assert not loading.needs_quick_gelu(settings, {}, laion)
        assert loading.needs_quick_gelu(settings, {"quick_gelu": True}, None)
        assert loading.needs_quick_gelu(BackboneSettings("ViT-B-32", "x.pt", quick_gelu=True), {}, None)


class _Holder(torch.nn.Module):
    """A module with the entries of an OpenAI archive: the model's weights and three numbers."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        for name, value in model.state_dict().items():
            _place(self, name.split("."), value.clone())
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _place(module: torch.nn.Module, path: list[str], value: torch.Tensor) -> None:
    for part in path[:-1]:
        if not hasattr(module, part):
            module.add_module(part, _Leaf())
        module = getattr(module, part)
    module.register_buffer(path[-1], value)


class _Leaf(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_hash_follows_a_single_bit() -> None:
    backbone = make_backbone()
    before = weights_sha256(backbone)
    with torch.no_grad():
        backbone.logit_scale.add_(1e-6)
    assert weights_sha256(backbone) != before
