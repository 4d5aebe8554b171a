from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_backbone import make_backbone

from components.errors import RegistryError
from components.evaluation.card import Parameters, ScorecardHead
from components.manifest import Protocol
from components.tracking.promotion import best_first, decide

POINTS = st.floats(0, 100)


PROTOCOL = Protocol("b", "v", "one caption per video", "listed")


def card(value: float, metric: str = "R@1", **changes: Any) -> ScorecardHead:
    content: dict[str, Any] = {
        "task": "t",
        "method": "m",
        "seed": 0,
        "split": "val",
        "protocol": PROTOCOL,
        "metrics": {"all": {"t2v": {metric: value}}},
        "ties": {},
        "queries": 5,
        "gallery": 5,
        "subset_queries": {},
        "failed_videos": 0,
        "rank_rule": "expected",
        "seconds": {},
    }
    return ScorecardHead(**content | changes)


@given(POINTS, POINTS, st.floats(0, 20))
def test_alias_moves_only_above_the_margin(new: float, old: float, margin: float) -> None:
    decision = decide(card(new), card(old), metric="t2v_R@1", margin=margin)
    assert decision.promote == (new - old > margin)
    assert decision.champion == old
    assert decision.challenger == new


@given(POINTS, st.floats(0, 20))
def test_an_equal_challenger_never_wins(value: float, margin: float) -> None:
    assert not decide(card(value), card(value), metric="t2v_R@1", margin=margin).promote


@given(POINTS, POINTS, st.floats(0, 20))
def test_at_most_one_of_two_beats_the_other(one: float, two: float, margin: float) -> None:
    both = (
        decide(card(one), card(two), metric="t2v_R@1", margin=margin).promote,
        decide(card(two), card(one), metric="t2v_R@1", margin=margin).promote,
    )
    assert both != (True, True)


@given(st.floats(1, 100), st.floats(1, 100), st.floats(0, 20))
def test_a_lower_rank_is_better(new: float, old: float, margin: float) -> None:
    decision = decide(card(new, "MdR"), card(old, "MdR"), metric="t2v_MdR", margin=margin)
    assert decision.promote == (old - new > margin)


@given(POINTS)
def test_first_challenger_becomes_champion(value: float) -> None:
    assert decide(card(value), None, metric="t2v_R@1", margin=5).promote


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"protocol": dataclasses.replace(PROTOCOL, validation="hashed")}, "protocol.validation"),
        ({"protocol": dataclasses.replace(PROTOCOL, benchmark="c")}, "protocol.benchmark"),
        ({"split": "test"}, "split"),
        ({"gallery": 7}, "gallery"),
        ({"failed_videos": 1}, "failed_videos"),
        ({"store": "x"}, "store"),
    ],
)
def test_another_protocol_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    decision = decide(card(99, **changes), card(1), metric="t2v_R@1", margin=0)
    assert not decision.promote
    assert f"{field}: " in decision.reason


def test_who_was_evaluated_may_differ() -> None:
    challenger = card(50, method="other", seed=3, parameters=Parameters(trainable=5), seconds={"videos": 1.0})
    assert decide(challenger, card(40), metric="t2v_R@1", margin=1).promote


def test_backbones_are_compared_and_the_reason_names_them() -> None:
    spec = make_backbone().spec
    big = dataclasses.replace(spec, model="big")
    won = decide(card(50, backbone=big), card(40, backbone=spec), metric="t2v_R@1", margin=1)
    assert won.promote
    assert won.reason.endswith("margin 1; its backbone is big, the champion's tiny")
    tuned = dataclasses.replace(spec, weights_sha256="0" * 64)
    lost = decide(card(40, backbone=tuned), card(40, backbone=spec), metric="t2v_R@1", margin=1)
    assert not lost.promote
    assert lost.reason.endswith("its backbone is tiny, the champion's tiny with other weights or settings")
    same = decide(card(50, backbone=spec), card(40, backbone=spec), metric="t2v_R@1", margin=1)
    assert "backbone" not in same.reason
    # Cards of release 0.1 have no backbone.
    assert decide(card(50, backbone=spec), card(40), metric="t2v_R@1", margin=1).promote


def test_unknown_and_non_finite_metrics_are_errors() -> None:
    with pytest.raises(RegistryError, match="t2v_R@1"):
        decide(card(1), None, metric="t2v_R@7", margin=0)
    with pytest.raises(ValidationError, match="finite number"):
        card(float("nan"))


@given(st.lists(POINTS, min_size=1, max_size=8))
def test_best_first_is_a_stable_order(values: list[float]) -> None:
    order = best_first([card(value) for value in values], "t2v_R@1")
    assert order == sorted(range(len(values)), key=lambda index: (-values[index], index))
