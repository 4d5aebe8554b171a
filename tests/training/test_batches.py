"""The plan of batches is a function of seed and epoch, uses each video at most once and groups similar captions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import TrainingError
from components.training.batches import (
    BatchPlan,
    LastBatch,
    Repeated,
    check_workers,
    draw_captions,
    similar_groups,
)
from components.training.hard_batches import repeated_captions
from components.video import Video


def unit(rng: np.random.Generator, rows: int, width: int = 6) -> np.ndarray:
    vectors = rng.standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@st.composite
def plans(draw: st.DrawFn) -> BatchPlan:
    size = draw(st.integers(2, 12))
    last: LastBatch = draw(st.sampled_from(["drop", "keep"]))
    videos = draw(st.integers(size if last == "drop" else 2, 60))
    counts = draw(st.lists(st.integers(1, 4), min_size=videos, max_size=videos))
    seed, captions = draw(st.integers(0, 2**31)), draw(st.integers(1, 5))
    if draw(st.booleans()):
        return BatchPlan(counts, size, seed, captions_per_video=captions, last_batch=last)
    group = draw(st.integers(2, size))
    vectors = unit(np.random.default_rng(seed), videos)
    return BatchPlan(counts, size, seed, "hard", group, vectors, captions, last)


@given(plans(), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_every_epoch_is_sound_and_reproducible(plan: BatchPlan, number: int) -> None:
    epoch = plan.epoch(number)
    full, rest = divmod(len(plan.counts), plan.batch_size)
    kept = rest if plan.last_batch == "keep" and rest > 1 else 0
    assert [len(rows) for rows in epoch.videos] == [plan.batch_size] * full + [kept] * (kept > 0)
    assert len(epoch.videos) == plan.steps_per_epoch
    rows, captions = np.concatenate(epoch.videos), np.concatenate(epoch.captions)
    assert len(np.unique(rows)) == len(rows) == plan.pairs(plan.steps_per_epoch)
    assert captions.shape == (len(rows), plan.captions_per_video)
    for row, drawn in zip(rows, captions, strict=True):
        count = min(plan.captions_per_video, plan.counts[row])
        assert np.all(drawn[count:] == -1)
        assert len(set(drawn[:count])) == count
        assert set(drawn[:count]) <= set(range(plan.counts[row]))
    again = plan.epoch(number)
    both = zip(epoch.videos + epoch.captions, again.videos + again.captions, strict=True)
    assert all(np.array_equal(a, b) for a, b in both)


def test_pairs_are_counted_over_epochs() -> None:
    plan = BatchPlan([1] * 10, 4, 0, last_batch="keep")
    assert [plan.pairs(steps) for steps in range(7)] == [0, 4, 8, 10, 14, 18, 20]
    assert [BatchPlan([1] * 10, 4, 0).pairs(steps) for steps in range(4)] == [0, 4, 8, 12]
    # A single pair would teach nothing.
    assert BatchPlan([1] * 9, 4, 0, last_batch="keep").steps_per_epoch == 2


def test_captions_are_drawn_evenly() -> None:
    """Each of the six ordered pairs of three captions makes up a sixth of the draws."""
    drawn = draw_captions(np.full(6000, 3), 2, np.random.default_rng(0))
    pairs, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(pairs) == 6
    assert np.all(abs(counts - 1000) < 120)


def test_epochs_and_seeds_differ_and_captions_alternate() -> None:
    plan = BatchPlan([4] * 40, 8, 0)
    assert not np.array_equal(plan.epoch(0).videos[0], plan.epoch(1).videos[0])
    assert not np.array_equal(plan.epoch(0).videos[0], BatchPlan([4] * 40, 8, 1).epoch(0).videos[0])
    epochs = [plan.epoch(number) for number in range(40)]
    rows = np.concatenate([part for epoch in epochs for part in epoch.videos])
    captions = np.concatenate([part for epoch in epochs for part in epoch.captions])
    assert set(captions[rows == 3].flatten()) == {0, 1, 2, 3}


@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(8, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_groups_are_the_nearest_free_videos(seed: int, size: int, videos: int, data: st.DataObject) -> None:
    """The reference applies the rule to one anchor at a time over the full matrix."""
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


def repeats(captions: list[list[str]]) -> Repeated | None:
    """The repeated captions of videos, where a text's first three letters are its tokens."""
    videos = [Video(str(row), f"{row}.mp4", "train", tuple(texts)) for row, texts in enumerate(captions)]
    return repeated_captions(videos, lambda texts: torch.tensor([list(text.encode()[:3]) for text in texts]))


def test_captions_repeat_if_their_tokens_do() -> None:
    found = repeats([["one", "two"], ["two!", "two"], ["six"], ["one", "sixty"], ["ten", "ten"]])
    assert found is not None
    # The labels of a video have no order.
    assert [sorted(found.videos[label].tolist() for label in labels) for labels in found.of_video] == [
        [[0, 1], [0, 3]], [[0, 1]], [[2, 3]], [[0, 3], [2, 3]], [],
    ]  # fmt: skip
    assert repeats([["one", "one more"], ["two"]]) is None


@given(st.integers(0, 2**31), st.integers(2, 4), st.integers(8, 30), st.integers(2, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_groups_leave_equal_captions_out(seed: int, size: int, videos: int, kinds: int, data: st.DataObject) -> None:
    """The reference takes one video after the other, with sets of captions."""
    rng = np.random.default_rng(seed)
    vectors, order = unit(rng, videos), rng.permutation(videos)
    captions = [{f"{number:03d}" for number in rng.integers(0, kinds, rng.integers(1, 4))} for _ in range(videos)]
    count = data.draw(st.integers(1, videos // size))
    groups, rest = similar_groups(vectors, order, size, count, repeats([sorted(texts) for texts in captions]))
    free, similarity = set(range(videos)), np.round((vectors @ vectors.T).astype(np.float64), 5)
    for group in groups:
        anchor = next(row for row in order if row in free)
        expected = [int(anchor)]
        free.remove(anchor)
        while len(expected) < size:
            seen = set().union(*(captions[row] for row in expected))
            apart = {row for row in free if not captions[row] & seen}
            nearest = min(apart or free, key=lambda row: (-similarity[anchor, row], row))
            expected.append(nearest)
            free.remove(nearest)
        assert group.tolist() == expected
    assert rest.tolist() == [row for row in order if row in free]


def test_a_collection_of_one_caption_still_makes_groups() -> None:
    plan = BatchPlan([1] * 12, 6, 0, "hard", 3, unit(np.random.default_rng(0), 12), repeated=repeats([["one"]] * 12))
    assert sorted(np.concatenate(plan.epoch(0).videos)) == list(range(12))


def test_hard_batches_hold_whole_scenes() -> None:
    """There are ten well-separated scenes of four videos, and every group is one scene."""
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
    with pytest.raises(TrainingError, match="no batch with a negative; found 1; expected at least 2 videos"):
        BatchPlan([1], 8, 0, last_batch="keep")
    with pytest.raises(
        TrainingError, match=r"execution\.workers.*found 3; expected a divisor of training\.micro_batches, 4"
    ):
        check_workers(3, 4)
