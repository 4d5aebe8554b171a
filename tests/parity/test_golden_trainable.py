"""Names of trained parameters against the released configurations and VoP's baseline rows (case 8)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from golden import FOLDER, MAX_FRAMES, WORDS, clip_name, golden_backbone
from test_golden_mv_adapter import BASE, our_name

from components.methods.build import build

CASE: dict[str, Any] = json.loads((FOLDER / "case08_trainable_parameters.json").read_text(encoding="utf-8"))
RULES = CASE["vop_release"]["candidate_rules_not_from_the_release"]


def test_mv_adapter_trains_what_the_release_trains() -> None:
    theirs = CASE["mv_adapter_and_full_fine_tuning"]["mv_adapter"]
    settings = {**BASE, "train_biases": True, "lr": 5e-6, "bias_lr": 1e-7}
    method = build("mv_adapter", settings, golden_backbone(), frames=MAX_FRAMES, words=WORDS)
    expected = set()
    for name in theirs["trainable"]:
        # The release stores query, key and value maps separately.
        plain = re.sub(r"\[. part\]$", "", name)
        expected.add("backbone." + clip_name(plain) if plain.startswith("clip.") else our_name(plain, 2))
    assert set(method.trainable()) == expected
    assert sum(p.numel() for p in method.trainable().values()) == theirs["counts"]["trainable"]
    rates = method.learning_rates()
    for group in theirs["groups"]:
        for name in group["parameters"]:
            plain = re.sub(r"\[. part\]$", "", name)
            ours = "backbone." + clip_name(plain) if plain.startswith("clip.") else our_name(plain, 2)
            assert rates[ours] == group["learning_rate"], ours


@pytest.mark.parametrize(("name", "rule"), [("bias", "bias_all"), ("proj", "proj"), ("partial", "partial_last_layer")])
def test_baselines_of_vop(name: str, rule: str) -> None:
    method = build(name, {"lr": 1e-3}, golden_backbone(), frames=MAX_FRAMES, words=WORDS)
    assert set(method.trainable()) == {f"backbone.{clip_name(key)}" for key in RULES[rule]["names_in_the_tiny_model"]}


def test_full_trains_all_but_the_logit_scale() -> None:
    method = build("full", {"lr": 1e-3}, golden_backbone(), frames=MAX_FRAMES, words=WORDS)
    everything = {f"backbone.{clip_name(key)}" for key in RULES["all"]["names_in_the_tiny_model"]}
    assert set(method.trainable()) == everything - {"backbone.logit_scale"}
