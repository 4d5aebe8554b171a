"""Weights from a hub, which the tests serve themselves on loopback."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import tokenizer_files
import torch
from hub_server import COMMIT, Hub, serve
from safetensors.torch import save
from tiny_backbone import CONFIG

from components.backbones.clip import Backbone
from components.backbones.fetch import fetch_model, fetch_tokenizer
from components.backbones.hub import Repository, fetch_url
from components.backbones.load import create, load_backbone
from components.backbones.settings import BackboneSettings
from components.errors import BackboneError

ROOT = Path(__file__).parents[2]
NAME, WEIGHTS = "owner/tiny", "open_clip_model.safetensors"
OPEN_CLIP = {"model_cfg": {**CONFIG, "quick_gelu": True}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}


@pytest.fixture(scope="module")
def weights() -> bytes:
    torch.manual_seed(5)
    return save({name: value.clone() for name, value in create("tiny", CONFIG).state_dict().items()})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: bytes) -> Iterator[Hub]:
    """A hub with one repository, and an empty cache."""
    (tmp_path / "tiny.json").write_text(json.dumps(CONFIG))
    files = {"open_clip_config.json": json.dumps(OPEN_CLIP).encode(), WEIGHTS: weights}
    with serve(Hub({NAME: files})) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        # huggingface_hub reads the variables of its cache once, when it is imported.
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield served


def load(root: Path, pretrained: str = NAME, model: str = "tiny.json", **changes: Any) -> Backbone:
    return load_backbone(BackboneSettings(model=model, pretrained=pretrained, **changes), root)


def refused(root: Path, pretrained: str = NAME, model: str = "tiny.json") -> str:
    with pytest.raises(BackboneError) as caught:
        load(root, pretrained, model)
    return str(caught.value)


def test_a_repository_is_fetched_once(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        spec = load(tmp_path).spec
    assert spec.quick_gelu
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.5,) * 3)
    assert any(f"fetching {WEIGHTS} of {NAME}" in record.message for record in caplog.records)
    before = len(hub.requests)
    assert load(tmp_path, f"hf-hub:{NAME}").spec == spec
    assert load(tmp_path, f"{NAME}@{COMMIT}").spec == spec
    assert load(tmp_path, model=f"hf-hub:{NAME}").spec.differences(spec) == ["model"]
    assert len(hub.requests) == before


def test_a_broken_transfer_is_resumed(hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # What arrived since the last full piece is asked for again, and a piece has 10 MB by default.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 2**16)
    hub.cut = {WEIGHTS}
    path = Repository(NAME).need(WEIGHTS)
    assert path.read_bytes() == weights
    pieces = len(weights) // 2 // 2**16
    assert hub.asked("GET", WEIGHTS) == [None, f"bytes={pieces * 2**16}-"]


@pytest.mark.parametrize("name", [WEIGHTS, "open_clip_config.json"])
def test_a_wrong_checksum_is_noticed_and_the_file_deleted(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.wrong = {name}
    text = refused(tmp_path)
    assert f"{name}: the file differs from its checksum; found '" in text
    if name == WEIGHTS:
        assert f"expected {hashlib.sha256(hub.repositories[NAME][WEIGHTS]).hexdigest()}; it was deleted" in text
    hub.wrong.clear()
    assert load(tmp_path).spec.quick_gelu


def test_repositories_without_what_is_needed(hub: Hub, tmp_path: Path) -> None:
    files = hub.repositories[NAME]
    hub.repositories["owner/bare"] = {WEIGHTS: files[WEIGHTS]}
    assert refused(tmp_path, "owner/bare").startswith(
        "hf-hub:owner/bare: no config next to the weights; expected open_clip_config.json (open_clip) or config.json"
    )
    hub.repositories["owner/empty"] = {"open_clip_config.json": files["open_clip_config.json"]}
    assert "hf-hub:owner/empty: no weights next to the config" in refused(tmp_path, "owner/empty")
    assert refused(tmp_path, "owner/none").startswith("hf-hub:owner/none: no such repository; check the name")
    hub.gated = {"owner/closed"}
    assert "accept its terms at https://huggingface.co/owner/closed, then set HF_TOKEN" in refused(
        tmp_path, "owner/closed"
    )
    assert "no such file in the repository; found 'open_clip_config.json'" in refused(
        tmp_path, NAME, "hf-hub:owner/bare"
    )


def test_offline(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    text = refused(tmp_path)
    assert text.startswith(
        f"hf-hub:{NAME}: open_clip_config.json is not in the cache, and the hub does not answer (OfflineModeIsEnabled)"
    )
    assert "`python pipelines/weights.py MODEL owner/tiny --to weights/`" in text
    assert hub.requests == []


def test_nobody_answers_and_later_the_cache_serves(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Hub()) as gone:
        pass
    monkeypatch.setenv("HF_ENDPOINT", gone.address)
    assert "the hub does not answer (ConnectError)" in refused(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    spec = load(tmp_path).spec
    monkeypatch.setenv("HF_ENDPOINT", gone.address)
    assert load(tmp_path).spec == spec


def test_another_tower_is_refused_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    assert "its vision tower is a ResNet" in refused(tmp_path, model="RN50")
    with pytest.raises(BackboneError, match="its vision tower is a ResNet"):
        fetch_model("RN50", "openai", tmp_path, tmp_path / "weights")
    assert hub.requests == []


class TestTags:
    """Tags of open_clip, which name a repository or an address."""

    @pytest.fixture
    def tag(self, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
        entry = {**open_clip.get_pretrained_cfg("ViT-B-32", "openai"), "hf_hub": f"{NAME}/", "mean": (0.4, 0.5, 0.6)}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny.json", {"openai": entry})
        return entry

    def test_a_tag_of_a_repository(self, hub: Hub, tmp_path: Path, tag: dict[str, Any]) -> None:
        spec = load(tmp_path, "openai").spec
        assert spec.quick_gelu
        assert spec.mean == (0.4, 0.5, 0.6)
        with pytest.raises(BackboneError, match="expected null or true for openai"):
            load(tmp_path, "openai", quick_gelu=False)

    def test_a_tag_and_its_folder_are_the_same_backbone(self, hub: Hub, tmp_path: Path, tag: dict[str, Any]) -> None:
        folder = fetch_model("tiny.json", "openai", tmp_path, tmp_path / "weights")
        assert folder == tmp_path / "weights/tiny-openai"
        assert load(tmp_path, "weights/tiny-openai").spec == load(tmp_path, "openai").spec

    def test_an_address_is_compared_with_its_hash(self, hub: Hub, tmp_path: Path, tag: dict[str, Any]) -> None:
        state = create("tiny", CONFIG).state_dict()
        torch.save(state, tmp_path / "made.pt")
        content = (tmp_path / "made.pt").read_bytes()
        path = f"/openaipublic/clip/{hashlib.sha256(content).hexdigest()}/tiny.pt"
        hub.plain[path] = content
        tag.update(hf_hub="", url=hub.address + path)
        spec = load(tmp_path, "openai").spec
        assert load(tmp_path, "openai").spec == spec
        assert hub.asked("GET", "tiny.pt") == [None]
        assert fetch_model("tiny.json", "openai", tmp_path, tmp_path / "weights").is_dir()
        assert load(tmp_path, "weights/tiny-openai").spec == spec

    @pytest.mark.filterwarnings("ignore:.*the SHA256 checksum does not match:UserWarning")
    def test_an_address_with_other_bytes_or_cut_off(self, hub: Hub, tmp_path: Path) -> None:
        path = f"/openaipublic/{'0' * 64}/tiny.pt"
        hub.plain[path] = bytes(1000)
        with pytest.raises(BackboneError, match="weights cannot be fetched; found 'RuntimeError: Model has been downl"):
            fetch_url(hub.address + path)
        content = bytes(range(250)) * 40
        path = f"/openaipublic/{hashlib.sha256(content).hexdigest()}/cut.pt"
        hub.plain[path], hub.cut = content, {"cut.pt"}
        with pytest.raises(BackboneError, match="weights cannot be fetched"):
            fetch_url(hub.address + path)
        assert fetch_url(hub.address + path).read_bytes() == content

    def test_an_address_that_nobody_answers(self, hub: Hub) -> None:
        with serve(Hub()) as gone:
            pass
        with pytest.raises(BackboneError, match=r"URLError.*run it again with a network, or give a local file"):
            fetch_url(f"{gone.address}/x.pt")


class TestTokenizers:
    """A model whose tokenizer is in another repository."""

    @pytest.fixture
    def model(self, hub: Hub, tmp_path: Path) -> dict[str, Any]:
        tokenizer_files.write(tmp_path / "made", "xlm")
        served = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
        hub.repositories["facebook/xlm-v-base"] = served
        raw = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "hf_tokenizer_name": "facebook/xlm-v-base"}}
        (tmp_path / "tiny.json").write_text(json.dumps(raw))
        hub.repositories[NAME]["open_clip_config.json"] = json.dumps({"model_cfg": raw}).encode()
        return raw

    def test_it_comes_along_and_is_part_of_the_spec(self, hub: Hub, tmp_path: Path, model: dict[str, Any]) -> None:
        spec = load(tmp_path).spec
        assert spec.tokenizer_sha256 is not None
        folder = fetch_model("tiny.json", NAME, tmp_path, tmp_path / "weights")
        names = {"open_clip_config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"}
        assert {path.name for path in folder.iterdir()} == names
        assert load(tmp_path, str(folder)).spec == spec
        alone = fetch_tokenizer("facebook/xlm-v-base", tmp_path / "weights")
        (folder / "tokenizer.json").unlink()
        assert load(tmp_path, str(folder), tokenizer=str(alone)).spec == spec

    def test_another_tokenizer_is_another_backbone(self, hub: Hub, tmp_path: Path, model: dict[str, Any]) -> None:
        spec = load(tmp_path).spec
        path = tmp_path / "made/tokenizer.json"
        path.write_text(path.read_text().replace("▁circle", "▁ring"))
        assert load(tmp_path, tokenizer="made").spec.differences(spec) == ["tokenizer_sha256"]

    def test_a_missing_one_names_file_repository_and_command(
        self, hub: Hub, tmp_path: Path, model: dict[str, Any], weights: bytes
    ) -> None:
        (tmp_path / "w").mkdir()
        (tmp_path / "w/w.safetensors").write_bytes(weights)
        text = refused(tmp_path, "w/w.safetensors")
        assert text.startswith(
            f"{tmp_path / 'w'}: the model's tokenizer is missing; expected tokenizer.json and tokenizer_config.json of "
            "the repository facebook/xlm-v-base; `python pipelines/weights.py MODEL TAG --to weights/` fetches them"
        )
        assert hub.requests == []


def test_the_script(hub: Hub, tmp_path: Path) -> None:
    """The script as users run it: once with the hub, and once where nobody answers."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": hub.address}
    command = [sys.executable, str(ROOT / "pipelines/weights.py"), "tiny.json", NAME, "--root", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"backbone: {{model: tiny.json, pretrained: {tmp_path}/weights/tiny-owner-tiny}}\n"
    assert f"fetching {WEIGHTS} of {NAME}" in done.stderr
    assert load(tmp_path, "weights/tiny-owner-tiny").spec.quick_gelu
    environment |= {"HF_HUB_CACHE": str(tmp_path / "other"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: hf-hub:owner/tiny: open_clip_config.json is not in the cache")
    assert done.stderr.count("\n") == 1
