"""Spans of time, on arrays: against definitions that try everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.moments import best_run, fold, narrow, overlaps, suppress

SECONDS = st.integers(0, 40).map(lambda tenth: tenth / 4)
SPANS = st.tuples(SECONDS, SECONDS).map(lambda ends: (min(ends), max(ends)))
RANKED = st.lists(st.tuples(st.sampled_from("ab"), SPANS), max_size=12)


def by_definition(one: tuple[float, float], other: tuple[float, float]) -> float:
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    union = (one[1] - one[0]) + (other[1] - other[0]) - shared
    return 1.0 if one == other else shared / union if union else 0.0


@given(st.lists(SPANS, min_size=1, max_size=6), st.lists(SPANS, min_size=1, max_size=6))
def test_overlap_is_intersection_over_union(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> None:
    found = overlaps(np.array(one), np.array(other))
    assert found == pytest.approx(np.array([[by_definition(a, b) for b in other] for a in one]))
    assert overlaps(np.array(other), np.array(one)) == pytest.approx(found.T)


@given(RANKED, st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(0, 12))
def test_of_overlapping_spans_of_a_file_the_best_is_kept(
    ranked: list[tuple[str, tuple[float, float]]], limit: float, cut: int
) -> None:
    files, spans = [file for file, _ in ranked], np.array([span for _, span in ranked]).reshape(-1, 2)
    kept = suppress(files, spans, limit)
    clash = [
        [files[a] == files[b] and by_definition(ranked[a][1], ranked[b][1]) > limit for b in range(len(files))]
        for a in range(len(files))
    ]
    assert not any(clash[a][b] for a in kept for b in kept if a != b)
    for lost in set(range(len(files))) - set(kept):
        assert any(clash[lost][better] for better in kept if better < lost)
    # So a search may look at the first rows of a ranking alone.
    assert suppress(files[:cut], spans[:cut], limit) == [position for position in kept if position < cut]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_the_best_run_has_the_largest_sum_and_is_the_longest_of_equals(gains: list[int]) -> None:
    runs = [(sum(gains[a : b + 1]), b - a + 1, -a) for a in range(len(gains)) for b in range(a, len(gains))]
    total, length, start = max(runs)
    found = best_run(np.array(gains, dtype=np.int64))
    assert found == (None if total <= 0 else (-start, -start + length - 1))


def test_a_span_is_narrowed_to_the_frames_that_show_it() -> None:
    times, scores = np.array([n + 0.5 for n in range(10)]), np.full(10, 0.1)
    scores[3:6] = 0.4
    assert narrow(times, scores, (0.0, 10.0)) == (3.0, 6.0)
    assert narrow(np.array([time + 20 for time in times]), scores, (20.0, 30.0)) == (23.0, 26.0)
    # At its ends a span reaches to where it began.
    assert narrow(times, scores[::-1].copy(), (0.0, 10.0)) == (4.0, 7.0)
    assert narrow(times, np.where(times < 2, 0.4, 0.1), (0.0, 10.0)) == (0.0, 2.0)


def test_a_span_without_contrast_stays_whole() -> None:
    times, noise = np.arange(8.0), np.array([0.25 + n * 1e-9 for n in range(8)])
    assert narrow(times, noise, (0.0, 8.0)) == (0.0, 8.0)
    assert narrow(times[:1], np.array([0.9]), (0.0, 8.0)) == (0.0, 8.0)
    # All of its frames are above the rest of the file: the moment fills the span.
    assert narrow(times, np.array([0.4, 0.5] * 4), (0.0, 8.0), level=0.1) == (0.0, 8.0)
    assert narrow(times, np.array([0.4, 0.5] * 4), (0.0, 8.0), level=0.6) == (0.0, 8.0)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20), st.one_of(st.none(), st.floats(-1, 1)))
def test_a_narrowed_span_is_inside_the_span(scores: list[float], level: float | None) -> None:
    times = np.array([n + 0.5 for n in range(len(scores))])
    start, end = narrow(times, np.array(scores), (0.0, float(len(scores))), level)
    assert 0.0 <= start < end <= len(scores)


def test_near_duplicates_are_folded_into_the_best_and_chains_do_not_grow() -> None:
    angles = np.radians([0, 5, 10, 15, 90, 1])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    # 10 degrees repeats 5 degrees but not 0, and 5 is gone.
    assert fold(vectors, float(np.cos(np.radians(6)))) == [0, 0, 2, 2, 4, 0]
    assert fold(vectors, 1.0) == list(range(6))
    assert fold(np.repeat(vectors[:1], 3, axis=0), 1.0) == [0, 0, 0]
    assert fold(vectors[:0], 0.9) == []


def test_frames_that_descend_are_narrowed_as_those_that_ascend() -> None:
    times, scores = np.array([0.5, 1.5, 2.5, 3.5]), np.array([0.1, 0.1, 0.9, 0.9])
    assert narrow(times, scores, (0.0, 4.0)) == (2.0, 4.0)
    assert narrow(times[::-1], scores[::-1], (0.0, 4.0)) == (2.0, 4.0)
