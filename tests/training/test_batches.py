"""The plan of batches: a function of seed and epoch, each video at most once, hard groups near each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import TrainingError
from components.training.batches import BatchPlan, similar_groups


def unit(rng: np.random.Generator, rows: int, width: int = 6) -> np.ndarray:
    vectors = rng.standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@st.composite
def plans(draw: st.DrawFn) -> BatchPlan:
    size = draw(st.integers(2, 12))
    videos = draw(st.integers(size, 60))
    counts = draw(st.lists(st.integers(1, 4), min_size=videos, max_size=videos))
    seed = draw(st.integers(0, 2**31))
    if draw(st.booleans()):
        return BatchPlan(counts, size, seed)
    group = draw(st.integers(2, size))
    return BatchPlan(counts, size, seed, "hard", group, unit(np.random.default_rng(seed), videos))


@given(plans(), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_every_epoch_is_sound_and_reproducible(plan: BatchPlan, number: int) -> None:
    epoch = plan.epoch(number)
    shape = (len(plan.counts) // plan.batch_size, plan.batch_size)
    assert epoch.videos.shape == epoch.captions.shape == shape
    assert len(np.unique(epoch.videos)) == epoch.videos.size
    assert np.all((epoch.captions >= 0) & (epoch.captions < plan.counts[epoch.videos]))
    again = plan.epoch(number)
    assert np.array_equal(epoch.videos, again.videos)
    assert np.array_equal(epoch.captions, again.captions)


def test_epochs_and_seeds_differ_and_captions_alternate() -> None:
    plan = BatchPlan([4] * 40, 8, 0)
    assert not np.array_equal(plan.epoch(0).videos, plan.epoch(1).videos)
    assert not np.array_equal(plan.epoch(0).videos, BatchPlan([4] * 40, 8, 1).epoch(0).videos)
    epochs = [plan.epoch(number) for number in range(40)]
    assert {int(epoch.captions[epoch.videos == 3][0]) for epoch in epochs} == {0, 1, 2, 3}


@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(8, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_groups_are_the_nearest_free_videos(seed: int, size: int, videos: int, data: st.DataObject) -> None:
    """Against the rule itself, one anchor at a time over the full matrix."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng, videos)
    order = rng.permutation(videos)
    count = data.draw(st.integers(1, videos // size))
    groups, rest = similar_groups(vectors, order, size, count)
    free, similarity = set(range(videos)), np.round((vectors @ vectors.T).astype(np.float64), 5)
    for group in groups:
        anchor = next(row for row in order if row in free)
        free.remove(anchor)
        nearest = sorted(free, key=lambda row: (-similarity[anchor, row], row))[: size - 1]
        assert group.tolist() == [anchor, *nearest]
        free -= set(nearest)
    assert rest.tolist() == [row for row in order if row in free]


def test_hard_batches_hold_whole_scenes() -> None:
    """Ten well-separated scenes of four: every group is one scene."""
    scenes = np.repeat(np.eye(10, dtype=np.float32), 4, axis=0)
    plan = BatchPlan([1] * 40, 13, 0, "hard", 4, scenes)
    for batch in plan.epoch(0).videos:
        grouped = batch[:8].reshape(2, 4) // 4
        assert np.all(grouped == grouped[:, :1])


def test_faults_name_the_setting() -> None:
    with pytest.raises(TrainingError, match=r"training\.batch_size.*found 8.*at most 5"):
        BatchPlan([1] * 5, 8, 0)
    with pytest.raises(TrainingError, match=r"training\.hard_group.*found 9.*at most training\.batch_size, 8"):
        BatchPlan([1] * 20, 8, 0, "hard", 9, unit(np.random.default_rng(0), 20))
