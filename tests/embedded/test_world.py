"""The world of shapes: what is drawn, what captions say, and that no two videos have the same meaning by chance."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.embedded import captions, collections, scene, stills, vocabulary
from components.embedded.annotations import write_activitynet, write_msrvtt
from components.embedded.scene import MOTIONS, REVERSE, Event, Item
from components.embedded.settings import DemoTaskSettings

SIZES = DemoTaskSettings(
    seconds=1.2, train_random=6, train_groups=2, val_random=3, val_groups=1, test_random=4, test_groups=2
)
RED_CIRCLE = Item("red", "circle", "small", 1, "center")


def centroid(image: scene.Image) -> tuple[float, float]:
    """x and y of the mean red pixel in units of the frame."""
    red = (image[..., 0].astype(int) - image[..., 2]) > 90
    ys, xs = np.nonzero(red)
    return float(xs.mean()) / image.shape[1], float(ys.mean()) / image.shape[0]


def frames(event: Event, count: int = 6, size: int = 96) -> list[scene.Image]:
    rng = np.random.default_rng(3)
    jitter = scene.random_jitter(rng)
    canvas = scene.backdrop(event.background, size, 1.0, rng)
    return [scene.paint(canvas, scene.discs_at(event, t, jitter)) for t in np.linspace(0, 1, count)]


@pytest.mark.parametrize(("motion", "axis", "sign"), [("right", 0, 1), ("left", 0, -1), ("down", 1, 1), ("up", 1, -1)])
def test_directions_are_as_named(motion: str, axis: int, sign: int) -> None:
    seen = [centroid(image)[axis] for image in frames(Event(RED_CIRCLE, motion, "black"))]
    assert all(sign * (b - a) > 0.05 for a, b in itertools.pairwise(seen))
    assert abs(seen[-1] - seen[0]) > 0.45


def test_sizes_and_sights_change_as_named() -> None:
    area = {m: [int((np.ptp(i, axis=2) > 60).sum()) for i in frames(Event(RED_CIRCLE, m, "black"))] for m in MOTIONS}
    assert area["grow"][-1] > 4 * area["grow"][0]
    assert area["shrink"][0] > 4 * area["shrink"][-1]
    assert area["appear"][0] == 0 < area["appear"][-1]
    assert area["leave"][-1] == 0 < area["leave"][0]


@given(st.sampled_from(MOTIONS), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_a_motion_is_its_reverse_backwards(motion: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    event, jitter = scene.random_event(rng, motion), scene.random_jitter(rng)
    back = replace(event, motion=REVERSE[motion])
    for t in (0.0, 0.3, 0.8, 1.0):
        forth_discs, back_discs = scene.discs_at(event, t, jitter), scene.discs_at(back, 1.0 - t, jitter)
        for one, other in zip(forth_discs, back_discs, strict=True):
            assert replace(one, x=0, y=0, radius=0, opacity=0) == replace(other, x=0, y=0, radius=0, opacity=0)
            found = (one.x, one.y, one.radius, one.opacity)
            assert found == pytest.approx((other.x, other.y, other.radius, other.opacity))


@given(st.integers(0, 2**31), st.sampled_from([*MOTIONS, None]))
@settings(max_examples=60, deadline=None)
def test_captions_agree_in_number_and_use_the_vocabulary(seed: int, motion: str | None) -> None:
    rng = np.random.default_rng(seed)
    event = scene.random_event(rng, motion)
    words = captions.clip_caption(event, rng).split()
    assert set(words) <= set(vocabulary.all_words())
    plural = captions.PLURALS[event.item.shape] in words
    assert plural == (event.item.count > 1)


def test_plans_have_the_sizes_asked_for_and_share_nothing_across_splits() -> None:
    for make in (collections.plan_clips, collections.plan_stories):
        plans = make(SIZES, 0)
        counts = {split: sum(plan.split == split for plan in plans) for split in collections.SPLITS}
        assert counts == {"train": 6 + 2 * 8, "val": 3 + 8, "test": 4 + 2 * 8}
        keys = [tuple(collections._signature(event) for event in plan.events) for plan in plans]
        assert len(set(keys)) == len(keys)
        assert len({plan.video_id for plan in plans}) == len(plans)
        assert plans == make(SIZES, 0)
        assert plans != make(SIZES, 1)


@pytest.mark.parametrize("make", [collections.plan_clips, collections.plan_stories])
def test_temporal_videos_have_negatives_that_differ_only_in_motion(make: object) -> None:
    """Each temporal test video has another one with the same things in the same order and other motions."""
    plans = [plan for plan in make(SIZES, 0) if plan.split == "test" and plan.temporal]  # type: ignore[operator]
    assert len(plans) == 16
    still = [tuple((e.item, e.background, e.other) for e in plan.events) for plan in plans]
    motion = [tuple(e.motion for e in plan.events) for plan in plans]
    for k in range(len(plans)):
        twins = [j for j in range(len(plans)) if still[j] == still[k] and motion[j] != motion[k]]
        assert len(twins) >= 3


def test_a_video_is_real_h264_and_the_same_every_time(tmp_path: Path) -> None:
    plan = collections.plan_stories(SIZES, 0)[0]
    for name in ("a.mp4", "b.mp4"):
        collections.write_video(plan, tmp_path / name, 128, 10)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 128, 128)
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    drawn = list(collections.render(plan, 128, 10))
    assert len(decoded) == len(drawn) == 12
    assert max(float(np.abs(a.astype(int) - b).mean()) for a, b in zip(decoded, drawn, strict=True)) < 6


def test_annotations_have_the_published_forms(tmp_path: Path) -> None:
    clips, stories = collections.plan_clips(SIZES, 0), collections.plan_stories(SIZES, 0)
    for plans, write, folder in ((clips, write_msrvtt, "c"), (stories, write_activitynet, "s")):
        (tmp_path / folder).mkdir()
        write(plans, tmp_path / folder)
    header = (tmp_path / "c/MSRVTT_JSFUSION_test.csv").read_text().splitlines()
    assert header[0] == "key,vid_key,video_id,sentence"
    assert len(header) == 1 + 20
    train = [plan for plan in clips if plan.split == "train"]
    assert all(len(plan.texts) > 1 for plan in train)
    assert all(len(plan.texts) == 1 for plan in clips if plan.split == "test")
    assert all(len(plan.texts) == 3 == len(plan.spans_seconds) for plan in stories)


def test_stills_show_their_theme_and_repeat_from_a_seed() -> None:
    pictures, texts = stills.batch(32, 64, 16, 0.3, np.random.default_rng(5))
    again, same = stills.batch(32, 64, 16, 0.3, np.random.default_rng(5))
    assert pictures.shape == (64, 32, 32, 3)
    assert (pictures == again).all()
    assert texts == same
    assert len(set(texts)) > 30
    verbs = {form[0].split()[0] for forms in captions.VERBS.values() for form in forms}
    verbs |= {form[1].split()[0] for forms in captions.VERBS.values() for form in forms}
    share = np.mean([bool(verbs & set(text.split())) for text in texts])
    assert 0.0 < share < 0.8
