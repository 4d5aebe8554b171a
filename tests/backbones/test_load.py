"""How a backbone is loaded from files of weights, or refused."""

from __future__ import annotations

import json
import os
import pickle
import socket
import zipfile
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_backbone import CONFIG

from components.backbones.archive import read_archive
from components.backbones.clip import Backbone
from components.backbones.load import activation, create, load_backbone
from components.backbones.settings import BackboneSettings
from components.backbones.sources import Source
from components.backbones.spec import BackboneSpec
from components.errors import BackboneError, DataError
from components.records import make_record


@pytest.mark.filterwarnings("ignore:.torch.jit.:FutureWarning")
class TestFiles:
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
        assert [spec.differences(specs[0]) for spec in specs] == [[], [], [], ["quick_gelu"]]
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


class TestQuickGelu:
    """The weights decide, and a setting may only agree."""

    def test_tags(self) -> None:
        openai = Source(Path("x"), quick_gelu=True)
        laion = Source(Path("x"), quick_gelu=False)
        settings = BackboneSettings("ViT-B-32", "openai")
        assert activation(settings, {}, openai)
        assert not activation(settings, {}, laion)
        assert activation(BackboneSettings("ViT-B-32", "openai", quick_gelu=True), {}, openai)

    @pytest.mark.parametrize(("says", "wish", "words"), [(True, False, "want"), (False, True, "do not want")])
    def test_a_setting_that_contradicts_the_weights(self, says: bool, wish: bool, words: str) -> None:
        settings = BackboneSettings("ViT-B-32", "a-tag", quick_gelu=wish)
        with pytest.raises(BackboneError) as caught:
            activation(settings, {}, Source(Path("x"), quick_gelu=says))
        assert str(caught.value) == (
            f"backbone.quick_gelu: contradicts the weights, which {words} QuickGELU; found {wish}; expected null or "
            f"{str(says).lower()} for a-tag; remove the setting"
        )

    def test_a_model_that_contradicts_the_weights(self) -> None:
        settings = BackboneSettings("ViT-B-32-quickgelu", "a-tag")
        with pytest.raises(BackboneError, match=r"name ViT-B-32$"):
            activation(settings, {"quick_gelu": True}, Source(Path("x"), quick_gelu=False))

    def test_where_the_weights_say_nothing_the_setting_or_the_model_decides(self) -> None:
        bare = Source(Path("x.safetensors"))
        for wish, model, result in ((None, {}, False), (True, {}, True), (None, {"quick_gelu": True}, True)):
            assert activation(BackboneSettings("m", "x.safetensors", quick_gelu=wish), model, bare) is result
        with pytest.raises(BackboneError, match=r"backbone\.quick_gelu: contradicts the model"):
            activation(BackboneSettings("m", "x", quick_gelu=False), {"quick_gelu": True}, bare)


@pytest.mark.filterwarnings("ignore:.torch.jit.:FutureWarning")
class TestArchives:
    """TorchScript archives, whose code must not run."""

    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        torch.manual_seed(5)
        torch.jit.save(torch.jit.script(_Holder(create("tiny", CONFIG).half())), tmp_path / "script.pt")
        (tmp_path / "tiny.json").write_text(json.dumps(CONFIG))
        return tmp_path / "script.pt"

    def test_tensors_equal_those_of_torch(self, archive: Path) -> None:
        ours, theirs = read_archive(archive), torch.jit.load(archive).state_dict()
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
        assert ours["visual.conv1.weight"].dtype == torch.float16

    def test_openai_files_ask_for_quick_gelu(self, archive: Path) -> None:
        settings = BackboneSettings("tiny.json", "script.pt")
        assert load_backbone(settings, archive.parent).spec.quick_gelu
        with pytest.raises(BackboneError, match=r"contradicts the weights.*expected null or true for script\.pt"):
            load_backbone(BackboneSettings("tiny.json", "script.pt", quick_gelu=False), archive.parent)

    def test_a_state_dict_saved_from_one_does_too(self, archive: Path) -> None:
        torch.save(torch.jit.load(archive).state_dict(), archive.with_name("plain.pt"))
        assert load_backbone(BackboneSettings("tiny.json", "plain.pt"), archive.parent).spec.quick_gelu

    def test_its_code_is_not_read(self, archive: Path) -> None:
        rewrite(archive, lambda name, content: b"this is no code" if "/code/" in name else content)
        with pytest.raises(RuntimeError):
            torch.jit.load(archive)
        assert load_backbone(BackboneSettings("tiny.json", "script.pt"), archive.parent).spec.quick_gelu

    @pytest.mark.parametrize(
        ("tree", "message"),
        [
            (pickle.dumps(os.system, protocol=2), "the archive names posix.system"),
            (b"\x80\x02ctorch.hub\nload\n.", "the archive names torch.hub.load"),
            (b"\x80\x02ccollections\nOrderedDict\n}(X\x01\x00\x00\x00aK\x01ub.", "a type is given a dict"),
            (b"\x80\x04\x96" + (2**40).to_bytes(8, "little"), "KeyError: 150"),
            (b"\x80\x02]q\x00.", "holds a list instead of a module"),
            (b"\x80\x02c__torch__\nM\n)\x81}(X\x01\x00\x00\x00a", "damaged archive"),
        ],
    )
    def test_a_pickle_that_asks_for_more(self, archive: Path, tree: bytes, message: str) -> None:
        rewrite(archive, lambda name, content: tree if name.endswith("data.pkl") else content)
        with pytest.raises(BackboneError, match="weights cannot be read") as caught:
            load_backbone(BackboneSettings("tiny.json", "script.pt"), archive.parent)
        assert message in str(caught.value)

    def test_a_record_that_is_shorter_than_its_tensor(self, archive: Path) -> None:
        rewrite(archive, lambda name, content: content[:4] if name.endswith("data/0") else content)
        with pytest.raises(BackboneError, match=r"tensor 0 claims \d+ bytes, its record has 4"):
            load_backbone(BackboneSettings("tiny.json", "script.pt"), archive.parent)


def rewrite(archive: Path, change: Any) -> None:
    """Writes a zip file again with the contents that ``change(name, content)`` gives."""
    with zipfile.ZipFile(archive) as source:
        contents = [(name, source.read(name)) for name in source.namelist()]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for name, content in contents:
            target.writestr(name, change(name, content))


class TestBadWeights:
    """One sentence with the file, the value and the cure."""

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        (tmp_path / "tiny.json").write_text(json.dumps(CONFIG))
        torch.manual_seed(5)
        save_file({k: v.clone() for k, v in create("tiny", CONFIG).state_dict().items()}, tmp_path / "w.safetensors")
        return tmp_path

    def refused(self, root: Path, name: str = "w.safetensors", **changes: Any) -> str:
        with pytest.raises(BackboneError) as caught:
            load_backbone(BackboneSettings(**{"model": "tiny.json", "pretrained": name, **changes}), root)
        return str(caught.value)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_numbers_that_are_none(self, saved: Path, value: float) -> None:
        state = load_file(saved / "w.safetensors")
        state["ln_final.bias"][3] = value
        save_file(state, saved / "bad.safetensors")
        assert "weights hold NaN or infinity; found 'ln_final.bias'" in self.refused(saved, "bad.safetensors")

    def test_quantised_weights(self, saved: Path) -> None:
        state = load_file(saved / "w.safetensors")
        state["text_projection"] = state["text_projection"].to(torch.int8)
        save_file(state, saved / "bad.safetensors")
        text = self.refused(saved, "bad.safetensors")
        assert "found {'text_projection': 'torch.int8'}; expected float16" in text

    def test_a_download_that_was_cut_off(self, saved: Path) -> None:
        torch.save(load_file(saved / "w.safetensors"), saved / "w.pt")
        for name in ("w.safetensors", "w.pt"):
            content = (saved / name).read_bytes()
            (saved / name).write_bytes(content[: len(content) // 2])
            text = self.refused(saved, name)
            assert "weights cannot be read" in text
            assert text.endswith("the file is damaged or its download was cut off: fetch it again")

    def test_a_pointer_of_git_lfs(self, saved: Path) -> None:
        (saved / "w.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 605143316\n"
        )
        assert "run `git lfs pull`" in self.refused(saved)

    def test_a_model_that_no_machine_holds(self, saved: Path) -> None:
        vision = {**CONFIG["vision_cfg"], "width": 2**20, "head_width": 2**10}
        (saved / "huge.json").write_text(json.dumps({**CONFIG, "vision_cfg": vision}))
        text = self.refused(saved, model="huge.json")
        assert text.startswith(
            "backbone.model: the model does not fit into this machine's memory; found 'huge.json with "
        )

    def test_a_header_that_claims_more_than_the_machine_holds(self, saved: Path) -> None:
        bytes_each = 119 * 2**30
        header = json.dumps(
            {"visual.proj": {"dtype": "F32", "shape": [bytes_each // 4], "data_offsets": [0, bytes_each]}}
        ).encode()
        with (saved / "sparse.safetensors").open("wb") as stream:
            stream.write(len(header).to_bytes(8, "little") + header)
            stream.truncate(8 + len(header) + bytes_each)
        text = self.refused(saved, "sparse.safetensors")
        assert "weights" in text
        (saved / "short.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        assert "weights cannot be read" in self.refused(saved, "short.safetensors")

    def test_a_compressed_pickle(self, saved: Path) -> None:
        torch.save(load_file(saved / "w.safetensors"), saved / "w.pt")
        with (
            zipfile.ZipFile(saved / "w.pt") as source,
            zipfile.ZipFile(saved / "z.pt", "w", zipfile.ZIP_DEFLATED) as target,
        ):
            for name in source.namelist():
                target.writestr(name, source.read(name))
        assert "the file is compressed" in self.refused(saved, "z.pt")

    def test_a_config_that_makes_no_model(self, saved: Path) -> None:
        for change, message in (
            ({"text_cfg": {**CONFIG["text_cfg"], "colour": 3}}, "open_clip cannot make this model"),
            ({"text_cfg": None}, "model config cannot be read"),
        ):
            (saved / "odd.json").write_text(json.dumps({**CONFIG, **change}))
            assert message in self.refused(saved, model="odd.json")
        (saved / "odd.json").write_text("{}")
        assert "expected vision_cfg and text_cfg" in self.refused(saved, model="odd.json")

    def test_a_tokenizer_for_a_model_with_clips(self, saved: Path) -> None:
        assert "takes no other; found 'tok'; remove the setting" in self.refused(saved, tokenizer="tok")
