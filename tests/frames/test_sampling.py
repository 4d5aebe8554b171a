from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.frames.sampling import RULES, chooser, floor_indices, linspace_indices, segment_center

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "frame_sampling.json").read_text())
FUNCTIONS = {"linspace": linspace_indices, "floor": floor_indices, "segment_center": segment_center}

totals = st.integers(0, 5000)
counts = st.integers(1, 64)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_indices_equal_those_of_the_released_loaders(name: str) -> None:
    for total, count, expected in GOLDEN[name]:
        assert FUNCTIONS[name](total, count) == expected, (total, count)


@given(totals, counts, st.sampled_from(sorted(FUNCTIONS)))
def test_indices_ascend_are_in_range_and_as_many_as_there_can_be(total: int, count: int, name: str) -> None:
    indices = FUNCTIONS[name](total, count)
    assert len(indices) == min(total, count)
    assert all(a < b for a, b in pairwise(indices))
    assert all(0 <= index < total for index in indices)


@given(totals.filter(bool), counts)
def test_segment_center_stays_inside_its_segment_and_is_even(total: int, count: int) -> None:
    indices = segment_center(total, count)
    length = total / len(indices)
    for number, index in enumerate(indices):
        assert number * length - 1 < index < (number + 1) * length
    gaps = np.diff(indices)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1 + (length != int(length))


@given(totals.filter(lambda n: n > 1), st.integers(2, 64))
def test_uniform_includes_first_and_last(total: int, count: int) -> None:
    indices = linspace_indices(total, count)
    assert indices[0] == 0
    assert indices[-1] == total - 1


@given(
    st.lists(st.floats(0, 100), max_size=200).map(sorted),
    counts,
    st.one_of(st.none(), st.floats(0, 100)),
    st.one_of(st.none(), st.floats(0, 100)),
    st.sampled_from(sorted(RULES)),
)
def test_chooser_takes_frames_of_the_segment_only(
    times: list[float], count: int, start: float | None, end: float | None, rule: str
) -> None:
    chosen = chooser(rule, count, start, end)(times)
    inside = [k for k, t in enumerate(times) if (start is None or t >= start) and (end is None or t < end)]
    assert set(chosen) <= set(inside)
    assert len(chosen) == min(count, len(inside))
