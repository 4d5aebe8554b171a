"""Which parameters decay, and the shape of the schedule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from components.methods.build import build
from components.report.count import meta_backbone
from components.training.optimiser import BETAS, EPSILON, build_optimiser, decays, lr_factor
from components.training.settings import Decay


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


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("video.0.down.weight", (8, 4), {"matrices", "all_but_biases", "all"}),
        ("parts.vop.generic_prompts", (4, 8, 16), {"all_but_biases", "all"}),
        ("video.0.norm.weight", (4,), {"all_but_biases", "all"}),
        ("factors.0", (8,), {"all_but_biases", "all"}),
        ("log_scale", (), {"all_but_biases", "all"}),
        ("video.0.down.bias", (4,), {"all"}),
        ("backbone.vision.layers.blocks.0.attn.in_proj_bias", (12,), {"all"}),
        # The name of a method in a model of several says nothing about its parameters.
        ("parts.mine/prompts:Bias.map.weight", (8, 4), {"matrices", "all_but_biases", "all"}),
    ],
)
def test_rules_of_decay(name: str, shape: tuple[int, ...], expected: set[Decay]) -> None:
    rules: list[Decay] = ["matrices", "all_but_biases", "all"]
    assert {rule for rule in rules if decays(name, nn.Parameter(torch.zeros(shape)), rule)} == expected


@pytest.mark.parametrize(
    ("method", "matrices", "all_but_biases", "every"),
    [("vop", 0, 2, 2), ("lora", 48, 48, 48), ("mv_adapter", 184, 294, 538)],
)
def test_how_many_parameters_of_a_method_decay(method: str, matrices: int, all_but_biases: int, every: int) -> None:
    """On ViT-B/32. MV-Adapter's 110 are its norms, positions, CC tokens and shared factors."""
    with torch.device("meta"):
        parameters = build(method, {"lr": 1e-3}, meta_backbone("ViT-B-32"), frames=12, words=32).trainable()
    rules: list[Decay] = ["matrices", "all_but_biases", "all"]
    counts = [sum(decays(name, p, rule) for name, p in parameters.items()) for rule in rules]
    assert counts == [matrices, all_but_biases, every]


@pytest.mark.parametrize("rule", ["matrices", "all_but_biases", "all"])
def test_steps_are_adamw_written_out(rule: Decay) -> None:
    """The reference is AdamW's algorithm (Loshchilov and Hutter, 2019, algorithm 2), one scalar at a time."""
    decayed: dict[Decay, set[str]] = {
        "matrices": {"map.weight"}, "all_but_biases": {"map.weight", "norm.weight", "prompts"},
        "all": {"map.weight", "norm.weight", "prompts", "map.bias"},
    }  # fmt: skip
    shapes = {"map.weight": (2, 3), "map.bias": (2,), "norm.weight": (3,), "prompts": (1, 2, 3)}
    generator = torch.Generator().manual_seed(3)
    parameters = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}
    rates = {"map.weight": 0.1, "map.bias": 0.02, "norm.weight": 0.1, "prompts": 0.1}
    gradients = [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(4)]
    expected: dict[str, list[float]] = {}
    for name, parameter in parameters.items():
        expected[name] = []
        for index, start in enumerate(parameter.flatten().tolist()):
            w, m, v = start, 0.0, 0.0
            for t, of_step in enumerate(gradients, start=1):
                g = float(of_step[name].flatten()[index])
                m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g * g
                ratio = m / (1 - BETAS[0] ** t) / ((v / (1 - BETAS[1] ** t)) ** 0.5 + EPSILON)
                w -= rates[name] * (ratio + (0.2 * w if name in decayed[rule] else 0.0))
            expected[name].append(w)
    optimiser = build_optimiser(parameters, rates, 0.2, rule)
    for of_step in gradients:
        for name, parameter in parameters.items():
            parameter.grad = of_step[name]
        optimiser.step()
    for name, parameter in parameters.items():
        assert parameter.flatten().tolist() == pytest.approx(expected[name], abs=1e-5)
