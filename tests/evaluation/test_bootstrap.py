"""Bootstrap against drawing the queries one by one, and against the widths that statistics predicts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation import bootstrap
from components.evaluation.bootstrap import intervals, resampled
from components.evaluation.card import METRICS
from components.evaluation.metrics import summary


@contextmanager
def cells(count: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "_CELLS", count)
        yield


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 5)), min_size=1, max_size=25))
@settings(max_examples=60, deadline=None)
def test_each_resample_is_the_summary_of_the_drawn_queries(rows: list[tuple[int, int]]) -> None:
    ranks, video = np.array([r for r, _ in rows], dtype=float) / 2 + 0.5, np.array([v for _, v in rows])
    draws = resampled(ranks, video, 7)
    names = np.unique(video)
    generator = np.random.Generator(np.random.PCG64(bootstrap.SEED))
    for metrics in draws:
        drawn = names[generator.integers(len(names), size=len(names))]
        expected = summary(np.concatenate([ranks[video == name] for name in drawn]))
        assert dict(zip(METRICS, metrics.tolist(), strict=True)) == pytest.approx(expected, abs=1e-5)


def test_memory_does_not_change_results() -> None:
    rng = np.random.default_rng(0)
    ranks, video = rng.integers(1, 50, 90).astype(float), rng.integers(0, 31, 90)
    whole = resampled(ranks, video, 50)
    with cells(200):
        assert (resampled(ranks, video, 50) == whole).all()


def test_intervals_have_the_width_of_theory() -> None:
    """R@1 of 1000 independent queries has the normal interval of a proportion, and MnR has that of a mean."""
    rng = np.random.default_rng(1)
    ranks = rng.geometric(0.4, 1000).astype(float)
    found = intervals(ranks, np.arange(1000), 2000)
    ratio = float(np.mean(ranks <= 1))
    low, high = found["R@1"]
    assert (high - low) / 100 == pytest.approx(2 * 1.96 * (ratio * (1 - ratio) / 1000) ** 0.5, rel=0.08)
    low, high = found["MnR"]
    assert high - low == pytest.approx(2 * 1.96 * ranks.std() / 1000**0.5, rel=0.08)
    assert low < ranks.mean() < high


def test_captions_are_drawn_with_their_video() -> None:
    """Twenty captions with one rank per video are no more evidence than one caption."""
    rng = np.random.default_rng(2)
    ranks = rng.integers(1, 20, 100).astype(float)
    one = intervals(ranks, np.arange(100), 500)
    many = intervals(np.repeat(ranks, 20), np.repeat(np.arange(100), 20), 500)
    assert many == one
    single = intervals(np.repeat(ranks, 20), np.arange(2000), 500)
    assert single["R@5"][1] - single["R@5"][0] < 0.4 * (one["R@5"][1] - one["R@5"][0])


def test_a_thousand_queries_take_less_than_a_second_of_work() -> None:
    ranks = np.random.default_rng(3).integers(1, 1000, 1000).astype(float)
    started = time.process_time()
    intervals(ranks, np.arange(1000), 1000)
    assert time.process_time() - started < 1.5
