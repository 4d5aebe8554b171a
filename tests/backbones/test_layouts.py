"""Folders of weights in the layouts of open_clip and of transformers."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers_files as made
from open_clip.model import CLIPTextCfg, _build_text_tower
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from tiny_backbone import CONFIG

from components.backbones.clip import Backbone
from components.backbones.load import create, load_backbone
from components.backbones.settings import BackboneSettings
from components.backbones.transformers_layout import parse_config, preprocessing, to_open_clip
from components.errors import BackboneError


def apart(ours: torch.Tensor, theirs: list[float]) -> float:
    return float((ours.detach()[0, : len(theirs)] - torch.tensor(theirs)).abs().max())


def load(root: Path, name: str, model: str = "model.json", **changes: Any) -> Backbone:
    return load_backbone(BackboneSettings(model=model, pretrained=name, **changes), root)


def refused(root: Path, name: str, model: str = "model.json", **changes: Any) -> str:
    with pytest.raises(BackboneError) as caught:
        load(root, name, model, **changes)
    return str(caught.value)


class TestTransformersClip:
    @pytest.mark.parametrize("sharded", [False, True])
    def test_features_equal_those_of_transformers(self, tmp_path: Path, sharded: bool) -> None:
        made.write_clip(tmp_path / "hf", sharded=sharded)
        backbone = load(tmp_path, "hf")
        assert apart(backbone.vision(made.image()), made.CLIP_IMAGE) < 2e-6
        tokens = torch.tensor([made.CLIP_TOKENS])
        assert apart(backbone.text(tokens), made.CLIP_TEXT) < 2e-6
        assert backbone.spec.quick_gelu
        assert (backbone.spec.mean, backbone.spec.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
        assert backbone.spec.interpolation == "bilinear"

    def test_a_file_of_the_folder_is_read_as_the_folder(self, tmp_path: Path) -> None:
        made.write_clip(tmp_path / "hf")
        assert load(tmp_path, "hf/model.safetensors").spec == load(tmp_path, "hf").spec

    def test_the_config_says_the_activation(self, tmp_path: Path) -> None:
        towers = {part: {**made.CLIP_CONFIG[part], "hidden_act": "gelu"} for part in ("text_config", "vision_config")}
        made.write_clip(tmp_path / "hf", {**made.CLIP_CONFIG, **towers})
        assert not load(tmp_path, "hf").spec.quick_gelu
        assert "expected null or false for" in refused(tmp_path, "hf", quick_gelu=True)
        # What is left out has the classes' defaults, and CLIP's is QuickGELU.
        assert parse_config({"model_type": "clip"}, tmp_path).quick_gelu
        assert not parse_config({"model_type": "siglip"}, tmp_path).quick_gelu
        # Old files say it twice, and the second one holds.
        old = {
            "model_type": "clip",
            "text_config": {"hidden_act": "gelu"},
            "text_config_dict": {"hidden_act": "quick_gelu"},
        }
        assert parse_config(old, tmp_path).quick_gelu
        with pytest.raises(BackboneError, match="only one tower uses QuickGELU"):
            parse_config({"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}, tmp_path)

    def test_heads_do_not_show_in_shapes(self, tmp_path: Path) -> None:
        made.write_clip(tmp_path / "hf")
        vision = {**made.OPEN_CLIP["vision_cfg"], "head_width": 12}
        (tmp_path / "model.json").write_text(json.dumps({**made.OPEN_CLIP, "vision_cfg": vision}))
        text = refused(tmp_path, "hf")
        assert "the vision tower differs; found {'num_attention_heads': 3, 'layer_norm_eps': 1e-05}" in text

    def test_a_shard_that_is_missing_or_cut_off(self, tmp_path: Path) -> None:
        made.write_clip(tmp_path / "hf", sharded=True)
        shard = tmp_path / "hf/model-00002-of-00002.safetensors"
        content = shard.read_bytes()
        shard.write_bytes(content[:-100])
        assert f"{shard}: weights cannot be read" in refused(tmp_path, "hf")
        shard.unlink()
        text = refused(tmp_path, "hf")
        assert "a file of the weights is missing; found 'model-00002-of-00002.safetensors'; fetch the whole" in text

    def test_an_index_that_leaves_the_folder_or_lies(self, tmp_path: Path) -> None:
        made.write_clip(tmp_path / "hf", sharded=True)
        index = tmp_path / "hf/model.safetensors.index.json"
        whole = json.loads(index.read_text())
        index.write_text(json.dumps({"weight_map": {**whole["weight_map"], "a": "../model.json"}}))
        assert "is missing; found '../model.json'" in refused(tmp_path, "hf")
        index.write_text(json.dumps({"weight_map": {**whole["weight_map"], "a": "model-00001-of-00002.safetensors"}}))
        assert "1 tensors are only in the index or only in its files; found ['a']" in refused(tmp_path, "hf")
        index.write_text("[]")
        assert "index of weights cannot be read" in refused(tmp_path, "hf")

    @pytest.mark.parametrize("kind", ["blip", None])
    def test_other_models(self, tmp_path: Path, kind: str | None) -> None:
        made.write_clip(tmp_path / "hf", {"model_type": kind})
        text = refused(tmp_path, "hf")
        assert f"unsupported model; found {{'model_type': {kind!r}}}; expected model_type clip, " in text

    def test_q_k_and_v_belong_together(self, tmp_path: Path) -> None:
        state = made.clip_state(60)
        del state["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
        with pytest.raises(BackboneError, match="q, k and v do not belong together"):
            to_open_clip(state, tmp_path)
        with pytest.raises(BackboneError, match=r"a tensor has no place in this layout; found 'vision_model\.colour'"):
            to_open_clip({"vision_model.colour": torch.zeros(1)}, tmp_path)


class TestTransformersSiglip:
    def test_features_equal_those_of_transformers(self) -> None:
        state = to_open_clip(made.siglip_state(), Path("x"))
        gelu = functools.partial(torch.nn.GELU, approximate="tanh")
        sizes: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
        trunk = VisionTransformer(**sizes, class_token=False, global_pool="map", num_classes=0, act_layer=gelu).eval()
        settings = {"context_length": 9, "vocab_size": 60, "width": 24, "heads": 3, "layers": 2, "no_causal_mask": True}
        kind = {
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        }
        text = _build_text_tower(24, CLIPTextCfg(**settings, **kind)).eval()
        for tower, prefix in ((trunk, "visual.trunk."), (text, "text.")):
            part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            tower.load_state_dict(part)
        with torch.no_grad():
            assert apart(trunk(made.image()), made.SIGLIP_IMAGE) < 5e-6
            assert apart(text(torch.tensor([made.SIGLIP_TOKENS])), made.SIGLIP_TEXT) < 5e-6
        assert (state["logit_scale"].shape, state["logit_bias"].shape) == ((), ())

    def test_names_and_shapes_are_those_of_open_clip(self) -> None:
        raw = {**open_clip.get_model_config("ViT-B-16-SigLIP2")}
        del raw["custom_text"]
        with torch.device("meta"):
            theirs = open_clip.CustomTextCLIP(**raw).state_dict()
        layer = {name for name in theirs if "blocks.0." in name or "blocks" not in name}
        ours = to_open_clip(made.siglip_state(), Path("x"))
        assert {name for name in ours if "blocks.0." in name or "blocks" not in name} == layer

    def test_patches_in_any_number_are_refused(self) -> None:
        state = {**made.siglip_state(), "vision_model.embeddings.patch_embedding.weight": torch.zeros(24, 192)}
        with pytest.raises(BackboneError, match=r"\(NaFlex\).*google/siglip2-base-patch16-224"):
            to_open_clip(state, Path("x"))

    def test_an_attention_pool_that_is_incomplete(self) -> None:
        state = made.siglip_state()
        del state["vision_model.head.attention.out_proj.bias"]
        with pytest.raises(BackboneError, match="the attention pool is incomplete"):
            to_open_clip(state, Path("x"))

    def test_its_pixels(self) -> None:
        assert preprocessing("siglip", {})["resize_mode"] == "squash"
        told = {"image_mean": [0.1, 0.2, 0.3], "resample": 3, "size": {"height": 224, "width": 224}}
        assert preprocessing("siglip", told) == {
            "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic", "resize_mode": "squash",
        }  # fmt: skip
        assert preprocessing("clip", {}) == {}


class TestOpenClipFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        torch.manual_seed(5)
        (tmp_path / "model.json").write_text(json.dumps(CONFIG))
        self.write(
            tmp_path / "hub", {"model_cfg": {**CONFIG, "quick_gelu": True}, "preprocess_cfg": {"mean": [0.5] * 3}}
        )
        state = {name: value.clone() for name, value in create("tiny", CONFIG).state_dict().items()}
        save_file(state, tmp_path / "hub/open_clip_model.safetensors")
        return tmp_path

    def write(self, folder: Path, config: dict[str, Any]) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "open_clip_config.json").write_text(json.dumps(config))

    def test_its_config_says_activation_and_pixels(self, folder: Path) -> None:
        spec = load(folder, "hub").spec
        assert spec.quick_gelu
        assert spec.mean == (0.5, 0.5, 0.5)
        assert load(folder, "hub", "hub/open_clip_config.json").spec.quick_gelu
        assert load(folder, "hub/open_clip_model.safetensors").spec == spec
        assert "contradicts the weights, which want QuickGELU" in refused(folder, "hub", quick_gelu=False)

    def test_pickled_weights_serve_too(self, folder: Path) -> None:
        spec = load(folder, "hub").spec
        torch.save(create("tiny", CONFIG).state_dict(), folder / "hub/open_clip_pytorch_model.bin")
        assert load(folder, "hub").spec == spec  # .safetensors comes first
        (folder / "hub/open_clip_model.safetensors").unlink()
        assert load(folder, "hub").spec.differences(spec) == ["weights_sha256"]

    def test_another_architecture_of_equal_shapes_and_the_cure(self, folder: Path) -> None:
        text = {**CONFIG["text_cfg"], "heads": 4}
        self.write(folder / "hub", {"model_cfg": {**CONFIG, "text_cfg": text}})
        config = folder / "hub/open_clip_config.json"
        assert refused(folder, "hub") == (
            f"{config}: the weights are of another architecture: text_cfg differs from backbone.model; found "
            f"{{'heads': 4}}; expected {{'heads': 2}} as model.json has; set backbone.model to {config}"
        )
        assert load(folder, "hub", str(config)).spec.text_heads == 4

    def test_no_config_no_weights_no_json(self, folder: Path) -> None:
        (folder / "hub/open_clip_model.safetensors").unlink()
        assert "no weights next to the config; expected open_clip_model.safetensors" in refused(folder, "hub")
        (folder / "hub/open_clip_config.json").write_text("{")
        assert "not JSON" in refused(folder, "hub")
        self.write(folder / "hub", {"embed_dim": 3})
        assert "not a config of open_clip; expected an object with model_cfg" in refused(folder, "hub")
        (folder / "hub/open_clip_config.json").unlink()
        assert "no config next to the weights; expected open_clip_config.json" in refused(folder, "hub")

    def test_a_path_with_a_typing_error_is_no_repository(self, folder: Path) -> None:
        text = refused(folder, "hub/missing")
        assert text.startswith("backbone.pretrained: no such weights; found 'hub/missing'; expected a file or folder (")
