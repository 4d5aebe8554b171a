"""Which parameters decay, and the shape of the schedule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from components.training.optimiser import build_optimiser, decays, lr_factor


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("text_adapters.0.down.weight", (8, 4), True),
        ("backbone.vision.layers.blocks.0.attn.in_proj_weight", (12, 4), True),
        ("backbone.vision.conv1.weight", (4, 3, 2, 2), True),
        ("video_prompts", (4, 8, 16), False),
        ("backbone.text.token_embedding.weight", (50, 4), False),
        ("backbone.text.positional_embedding", (50, 4), False),
        ("frame_positions", (9, 4), False),
        ("shared_factors.0", (1, 8), False),
        ("video_adapters.0.norm.weight", (4,), False),
        ("text_adapters.0.down.bias", (4,), False),
    ],
)
def test_only_weights_of_linear_maps_decay(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert decays(name, nn.Parameter(torch.zeros(shape))) is expected


def test_each_parameter_is_in_one_group() -> None:
    parameters = {"a.weight": nn.Parameter(torch.ones(2, 2)), "a.bias": nn.Parameter(torch.ones(2))}
    groups = build_optimiser(parameters, dict.fromkeys(parameters, 0.1), 0.5).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.5), (1, 0.0)]
    only_prompts = build_optimiser({"prompts": nn.Parameter(torch.ones(2, 2))}, {"prompts": 0.1}, 0.5)
    assert [group["weight_decay"] for group in only_prompts.param_groups] == [0.0]


def test_a_group_for_each_learning_rate() -> None:
    parameters = {name: nn.Parameter(torch.ones(2, 2)) for name in ("slow.weight", "fast.weight", "fast.prompts")}
    rates = {"slow.weight": 1e-3, "fast.weight": 1e-2, "fast.prompts": 1e-2}
    groups = build_optimiser(parameters, rates, 0.5).param_groups
    assert [(group["peak_lr"], group["weight_decay"]) for group in groups] == [(1e-2, 0.5), (1e-2, 0.0), (1e-3, 0.5)]


@given(st.integers(1, 500), st.floats(0, 1))
def test_schedule_rises_then_falls_and_never_stops(total: int, share: float) -> None:
    factors = [lr_factor(step, total, share) for step in range(total)]
    warmup = round(share * total)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert max(factors) == 1


def test_schedule_values() -> None:
    assert [lr_factor(step, 10, 0.2) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert lr_factor(6, 10, 0.2) == pytest.approx(0.5)
