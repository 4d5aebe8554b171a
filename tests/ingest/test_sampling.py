"""Which frames are picked: as the released loaders pick them, ascending, inside the segment."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from components.ingest.sampling import (
    RULES,
    chooser,
    floor_indices,
    linspace_indices,
    most_different,
    per_second,
    segment_center,
    segment_random,
)

RELEASED = json.loads((Path(__file__).parents[1] / "golden" / "frame_rates.json").read_text())
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
    if rule not in ("clip4clip", "mv_adapter"):  # these have at most one frame per second
        assert len(chosen) == min(count, len(inside))


class TestReleasedLoadersWithTheirFrameRates:
    """Compares with results of CLIP4Clip's extractor and MV-Adapter's loader, made by the released code."""

    def test_clip4clip_from_the_file_to_the_chosen_frames(self) -> None:
        cases = RELEASED["clip4clip"]
        assert len(cases) > 50
        for total, fps, rate, count, after_rate, chosen in cases:
            seconds = per_second(total, fps, rate)
            assert seconds == after_rate, (total, fps, rate)
            assert [seconds[i] for i in linspace_indices(len(seconds), count)] == chosen
            if rate == 1 and total > 1:
                times = [index / fps for index in range(total)]
                assert chooser("clip4clip", count, None, None)(times) == chosen

    def test_mv_adapter(self) -> None:
        cases = RELEASED["mv_adapter"]
        assert len(cases) > 20
        for total, count, chosen in cases:
            # Its extractor took one frame per second before.
            assert chooser("mv_adapter", count, None, None)([float(index) for index in range(total)]) == chosen


@given(totals, counts, st.text(max_size=8))
def test_segment_random_draws_once_from_each_segment(total: int, count: int, seed: str) -> None:
    indices = segment_random(total, count, seed)
    assert indices == segment_random(total, count, seed)
    segments = min(total, count)
    assert len(indices) == segments
    assert all(k * total // segments <= index < (k + 1) * total // segments for k, index in enumerate(indices))


def test_segment_random_differs_between_videos() -> None:
    assert len({tuple(segment_random(600, 12, f"video{k}")) for k in range(20)}) == 20


@limits(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 16), st.integers(0, 999))
def test_most_different_gives_ascending_frames_and_covers_the_video(total: int, count: int, seed: int) -> None:
    pictures = np.random.default_rng(seed).integers(0, 256, (total, 32, 32, 3), dtype=np.uint8)
    chosen = most_different(pictures, count)
    assert len(chosen) == min(total, count)
    assert all(a < b for a, b in pairwise(chosen))
    if total > count:
        assert set(segment_center(total, (count + 1) // 2)) <= set(chosen)


@given(st.integers(0, 95))
def test_most_different_finds_the_one_frame_that_shows_something_else(where: int) -> None:
    pictures = np.full((96, 32, 32, 3), 90, dtype=np.uint8)
    pictures += np.random.default_rng(1).integers(0, 8, pictures.shape, dtype=np.uint8)
    pictures[where, 8:20, 8:20] = (250, 30, 30)
    assert where in most_different(pictures, 12)


def test_a_still_video_is_covered_evenly_enough() -> None:
    chosen = most_different(np.zeros((96, 32, 32, 3), dtype=np.uint8), 12)
    assert len(chosen) == 12
