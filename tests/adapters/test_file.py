"""Adapter folders: a saved adapter comes back unchanged, and what does not fit is refused."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_backbone import FRAMES, TEXTS, WORDS, clips, make_backbone
from variants import BACKBONE, NAMES, make

from components.adapters.card import AdapterCard, TrainingFacts, write_card
from components.adapters.file import load_adapter, read_card, save_adapter
from components.errors import AdapterError, ReelTuneError
from components.methods.base import Method
from components.methods.build import build
from components.provenance import sha256_file

trained = make
KEYS = [field.name for field in fields(AdapterCard)]


def save(folder: Path, method: Method) -> Path:
    save_adapter(folder, method, task="shapes", provenance={"commit": "abc"}, extra=TrainingFacts(epoch=3))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_exact(name: str, tmp_path: Path) -> None:
    method = trained(name)
    folder = save(tmp_path / "a", method)
    loaded = load_adapter(folder, BACKBONE)
    assert type(loaded) is type(method)
    assert loaded.settings == method.settings
    assert (loaded.frames, loaded.words) == (FRAMES, WORDS)
    assert not loaded.training
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    for ours, theirs in zip(loaded(*inputs), method(*inputs), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_card_and_weights_hold_exactly_the_trainable_parameters(name: str, tmp_path: Path) -> None:
    method = trained(name)
    folder = save(tmp_path, method)
    card = read_card(folder)
    assert set(json.loads((folder / "adapter.json").read_text())) == set(KEYS)
    with safe_open(folder / "adapter.safetensors", "pt") as weights:
        keys = sorted(weights.keys())
    assert keys == list(card.parameters) == list(method.trainable())
    assert card.trainable == sum(p.numel() for p in method.trainable().values())
    assert card.bytes == (folder / "adapter.safetensors").stat().st_size
    assert card.sha256 == sha256_file(folder / "adapter.safetensors")
    assert card.extra == TrainingFacts(epoch=3)
    assert (card.label, card.temporal) == (method.name, method.temporal)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.json", "adapter.safetensors"]


def test_a_card_of_release_0_1_is_written_again_with_the_same_bytes(tmp_path: Path) -> None:
    kept = Path(__file__).parents[1] / "golden" / "release_0_1" / "vop_p"
    card = read_card(kept)
    assert (card.label, card.backbone.patches, card.parameters["text_prompts"].dtype) == ("vop_p", 16, "float32")
    write_card(tmp_path, card)
    assert (tmp_path / "adapter.json").read_bytes() == (kept / "adapter.json").read_bytes()


def test_what_a_later_training_adds_is_ignored(tmp_path: Path) -> None:
    path = save(tmp_path, trained("vop")) / "adapter.json"
    card = json.loads(path.read_text())
    card["extra"] |= {"training": {"select_on": "val", "epochs": 3}, "note": "new"}
    path.write_text(json.dumps(card))
    assert read_card(tmp_path).extra == TrainingFacts(epoch=3, training={"select_on": "val", "epochs": 3})
    assert read_card(tmp_path).extra.selected_on == "val"


def test_exact_keys_of_the_adapters(tmp_path: Path) -> None:
    prompts = load_file(save(tmp_path / "v", trained("vop")) / "adapter.safetensors")
    assert sorted(prompts) == ["generic_prompts", "text_prompts"]
    keys = set(load_file(save(tmp_path / "m", trained("mv_adapter")) / "adapter.safetensors"))
    block = ("fc1", "fc2", "norm1", "norm2", "out", "qkv")
    linear = [
        f"{part}.{end}" for part in ("down", "norm", "up", *(f"block.{b}" for b in block)) for end in ("weight", "bias")
    ]
    both = {f"{side}.{i}.{key}" for side in ("video", "text") for i in range(3) for key in (*linear, "positions")}
    video = (
        "cc",
        *(f"calibration.class.{key}" for key in ("g.weight", "g.bias", "fc1.weight", "fc1.bias", "fc2.weight")),
    )
    ties = {f"{side}.{i}.tie.{end}" for side in ("video", "text") for i in (1, 2) for end in ("weight", "bias")}
    assert keys == both | {f"video.{i}.{key}" for i in range(3) for key in video} | ties | {"factors.0", "factors.1"}


def test_saving_again_replaces_and_leaves_other_files(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text("{}")
    save(tmp_path, trained("vop"))
    save(tmp_path, trained("mv_adapter"))
    assert read_card(tmp_path).method == "mv_adapter"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.json", "adapter.safetensors", "training.json"]


def test_a_full_adapter_leaves_the_shared_backbone_alone(tmp_path: Path) -> None:
    plain = build("zero_shot", {}, BACKBONE, frames=FRAMES, words=WORDS)
    before = plain.encode_video(*clips(BACKBONE))
    full = load_adapter(save(tmp_path, trained("full")), BACKBONE)
    assert torch.equal(plain.encode_video(*clips(BACKBONE)), before)
    assert (full.encode_video(*clips(BACKBONE)) - before).abs().max() > 1e-3


class TestRefusals:
    def test_another_backbone_with_both_specs_in_the_message(self, tmp_path: Path) -> None:
        folder = save(tmp_path, trained("vop"))
        other = make_backbone(seed=9)
        with pytest.raises(AdapterError, match=r"another backbone \(differs in weights_sha256\)") as caught:
            load_adapter(folder, other)
        assert BACKBONE.spec.weights_sha256 in str(caught.value)
        assert other.spec.weights_sha256 in str(caught.value)

    def test_no_adapter(self, tmp_path: Path) -> None:
        with pytest.raises(AdapterError, match="missing; run the train stage"):
            read_card(tmp_path)

    @pytest.mark.parametrize(
        ("text", "fault"), [("{", "not JSON"), ("[]", "not a JSON object"), ("null", "not a JSON")]
    )
    def test_damaged_card(self, tmp_path: Path, text: str, fault: str) -> None:
        save(tmp_path, trained("vop"))
        (tmp_path / "adapter.json").write_text(text)
        with pytest.raises(AdapterError, match=rf"adapter\.json: {fault}"):
            load_adapter(tmp_path, BACKBONE)

    @pytest.mark.parametrize("key", sorted(KEYS))
    def test_card_without_a_key(self, tmp_path: Path, key: str) -> None:
        card = self.card(save(tmp_path, trained("vop")))
        del card[key]
        (tmp_path / "adapter.json").write_text(json.dumps(card))
        with pytest.raises(AdapterError, match=key):
            load_adapter(tmp_path, BACKBONE)

    def test_card_of_another_version(self, tmp_path: Path) -> None:
        card = self.card(save(tmp_path, trained("vop")))
        (tmp_path / "adapter.json").write_text(json.dumps({**card, "format": 99}))
        with pytest.raises(AdapterError, match="found 99; expected 1"):
            load_adapter(tmp_path, BACKBONE)

    @pytest.mark.parametrize("cut", [0, 5, 200])
    def test_truncated_weights(self, tmp_path: Path, cut: int) -> None:
        weights = save(tmp_path, trained("vop")) / "adapter.safetensors"
        weights.write_bytes(weights.read_bytes()[:cut])
        with pytest.raises(AdapterError, match="damaged"):
            load_adapter(tmp_path, BACKBONE)

    def test_one_changed_bit(self, tmp_path: Path) -> None:
        weights = save(tmp_path, trained("vop")) / "adapter.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        with pytest.raises(AdapterError, match="damaged"):
            load_adapter(tmp_path, BACKBONE)

    def test_missing_weights(self, tmp_path: Path) -> None:
        (save(tmp_path, trained("vop")) / "adapter.safetensors").unlink()
        with pytest.raises(AdapterError, match="missing"):
            load_adapter(tmp_path, BACKBONE)

    @pytest.mark.parametrize(
        ("change", "message"),
        [("drop", "missing.*text"), ("add", "unexpected.*stray"), ("shape", "generic_prompts has another shape")],
    )
    def test_other_keys_or_shapes(self, tmp_path: Path, change: str, message: str) -> None:
        weights = save(tmp_path, trained("vop")) / "adapter.safetensors"
        tensors = load_file(weights)
        if change == "drop":
            del tensors["text_prompts"]
        elif change == "add":
            tensors["stray"] = torch.zeros(1)
        else:
            tensors["generic_prompts"] = tensors["generic_prompts"][:, :1].contiguous()
        save_file(tensors, weights)
        card = self.card(tmp_path)
        (tmp_path / "adapter.json").write_text(json.dumps({**card, "sha256": sha256_file(weights)}))
        with pytest.raises(AdapterError, match=message):
            load_adapter(tmp_path, BACKBONE)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
    def test_a_value_that_no_training_gives(self, tmp_path: Path, value: float) -> None:
        weights, tensors = self.weights(tmp_path)
        tensors["text_prompts"].view(-1)[7] = value
        self.replace(weights, tensors)
        with pytest.raises(AdapterError, match=r"text_prompts holds a value .*expected finite numbers up to 1e\+06"):
            load_adapter(tmp_path, BACKBONE)

    @pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.bool, torch.float16])
    def test_another_type(self, tmp_path: Path, dtype: torch.dtype) -> None:
        weights, tensors = self.weights(tmp_path)
        tensors["text_prompts"] = tensors["text_prompts"].to(dtype)
        self.replace(weights, tensors)
        with pytest.raises(AdapterError, match=r"text_prompts has another type.*expected F32"):
            load_adapter(tmp_path, BACKBONE)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"frames": 10**9}, "frames: .*less than or equal to 100000, found 1000000000"),
            ({"frames": -1}, "frames: .*greater than or equal to 1, found -1"),
            ({"words": 0}, "words: .*greater than or equal to 3"),
            ({"bottleneck": 10**9}, "has another shape; found .*; expected .*1000000000"),  # 1.5 TiB
            ({"bottleneck": 10**30}, "the settings ask for parameters that cannot be made"),
            ({"bottleneck": 1e30}, "bottleneck: .*valid integer, found 1e"),
        ],
    )
    def test_sizes_that_fill_the_memory(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        card = self.card(save(tmp_path, trained("adapter_attn")))
        for key, value in changes.items():
            (card if key in card else card["settings"])[key] = value
        (tmp_path / "adapter.json").write_text(json.dumps(card))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ReelTuneError, match=message):
            load_adapter(tmp_path, BACKBONE)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB

    def weights(self, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
        path = save(folder, trained("vop")) / "adapter.safetensors"
        return path, load_file(path)

    def replace(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        """Writes other weights, with their hash in the card."""
        save_file(tensors, path)
        card = self.card(path.parent) | {"sha256": sha256_file(path)}
        (path.parent / "adapter.json").write_text(json.dumps(card))

    @staticmethod
    def card(folder: Path) -> dict[str, Any]:
        return dict(json.loads((folder / "adapter.json").read_text()))


def test_cards_are_read_without_torch(tmp_path: Path) -> None:
    save(tmp_path, trained("vop"))
    code = (
        "import sys; from pathlib import Path; from components.adapters.card import read_card;"
        f"print(read_card(Path({str(tmp_path)!r})).method, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["vop", "False"]
