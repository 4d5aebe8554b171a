"""The two embedded collections: which videos they contain, and how each is written as an MP4 file.

``shapes-clips`` has the format of MSR-VTT, and ``shapes-stories`` that of ActivityNet Captions. A part of every split
comes in *groups*: one scene in all motions (clips), or one story in variants of direction and order (stories). Members
of a group differ only in motion words or in the order of the sentences. They are the hard negatives that make a test
video *temporal*.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import av
import numpy as np

from components.embedded import captions, scene
from components.embedded.scene import MOTIONS, REVERSE, Event, Image, Random
from components.embedded.settings import DemoTaskSettings

GRAIN = 1.0  # noise in gray levels, which takes most of the bytes
TRAIN_CAPTIONS = 5
STORY_EVENTS = 3
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class VideoPlan:
    """A video to make.

    Args:
        video_id: The id in the annotations.
        split: One of :data:`SPLITS`.
        events: What happens, in order.
        spans_seconds: Start and end of each event.
        texts: Alternative captions of a clip, or one sentence per event of a story.
        temporal: Whether the video is in a group.
        seed: The seed of everything that is random in the pictures.
    """

    video_id: str
    split: str
    events: tuple[Event, ...]
    spans_seconds: tuple[tuple[float, float], ...]
    texts: tuple[str, ...]
    temporal: bool
    seed: tuple[int, ...]


def plan_clips(settings: DemoTaskSettings, seed: int) -> list[VideoPlan]:
    """The videos of shapes-clips. No scene has the same motion twice, in one split or in two."""
    rng = np.random.default_rng((seed, 10))
    seen: set[tuple[object, ...]] = set()
    plans: list[VideoPlan] = []
    for split in SPLITS:
        groups = (group for _ in range(_groups(settings, split)) for group in [_clip_group(rng, seen)])
        singles = ([_single_clip(rng, seen)] for _ in range(_randoms(settings, split)))
        for temporal, batches in ((True, groups), (False, singles)):
            for events in batches:
                for event in events:
                    number = len(plans)
                    count = TRAIN_CAPTIONS if split == "train" else 1
                    texts = tuple(dict.fromkeys(captions.clip_caption(event, rng) for _ in range(count)))
                    spans = ((0.0, settings.seconds),)
                    plans.append(
                        VideoPlan(f"video{number}", split, (event,), spans, texts, temporal, (seed, 11, number))
                    )
    return plans


def plan_stories(settings: DemoTaskSettings, seed: int) -> list[VideoPlan]:
    """The videos of shapes-stories. No story occurs twice, in one split or in two."""
    rng = np.random.default_rng((seed, 20))
    seen: set[tuple[object, ...]] = set()
    plans: list[VideoPlan] = []
    for split in SPLITS:
        groups = (_story_group(rng, seen) for _ in range(_groups(settings, split)))
        singles = ([_single_story(rng, seen)] for _ in range(_randoms(settings, split)))
        for temporal, batches in ((True, groups), (False, singles)):
            for stories in batches:
                for events in stories:
                    number = len(plans)
                    spans = _spans(settings.seconds, rng)
                    texts = tuple(captions.story_sentences(events, rng))
                    name = "v_" + _public_id(seed, number)
                    plans.append(VideoPlan(name, split, events, spans, texts, temporal, (seed, 21, number)))
    return plans


def write_video(plan: VideoPlan, path: Path, size: int, fps: int) -> None:
    """Renders ``plan`` and encodes it as H.264 in MP4. Equal plans give equal bytes."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "20", "g": str(fps)})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # with several, the bytes would depend on the machine
        for image in render(plan, size, fps):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def render(plan: VideoPlan, size: int, fps: int) -> Iterator[Image]:
    """The frames of ``plan`` in order, each ``uint8[size, size, 3]``."""
    rng = np.random.default_rng(plan.seed)
    for event, (start, end) in zip(plan.events, plan.spans_seconds, strict=True):
        jitter = scene.random_jitter(rng)
        canvas = scene.backdrop(event.background, size, GRAIN, rng)
        first, last = round(start * fps), round(end * fps)
        for k in range(first, last):
            yield scene.paint(canvas, scene.discs_at(event, (k - first) / max(1, last - first - 1), jitter))


def _groups(settings: DemoTaskSettings, split: str) -> int:
    return {"train": settings.train_groups, "val": settings.val_groups, "test": settings.test_groups}[split]


def _randoms(settings: DemoTaskSettings, split: str) -> int:
    return {"train": settings.train_random, "val": settings.val_random, "test": settings.test_random}[split]


def _signature(event: Event) -> tuple[object, ...]:
    """What a caption can say about an event. No words distinguish two events with the same signature."""
    other = captions.placed(event.other) if event.other is not None else None
    return captions.noun(event.item), event.motion, event.background, other


def _claim(stories: list[tuple[Event, ...]], seen: set[tuple[object, ...]]) -> bool:
    keys = [tuple(_signature(event) for event in events) for events in stories]
    if len(set(keys)) < len(keys) or any(key in seen for key in keys):
        return False
    seen.update(keys)
    return True


def _clip_group(rng: Random, seen: set[tuple[object, ...]]) -> list[Event]:
    while True:
        first = scene.random_event(rng, MOTIONS[0])
        group = [replace(first, motion=motion) for motion in MOTIONS]
        if _claim([(event,) for event in group], seen):
            return group


def _single_clip(rng: Random, seen: set[tuple[object, ...]]) -> Event:
    while True:
        event = scene.random_event(rng, _any_motion(rng))
        if _claim([(event,)], seen):
            return event


def _any_motion(rng: Random) -> str | None:
    choice = int(rng.integers(len(MOTIONS) + 1))
    return MOTIONS[choice] if choice < len(MOTIONS) else None


def _random_story(rng: Random, with_rest: bool) -> tuple[Event, ...]:
    background = str(rng.choice(list(scene.BACKGROUNDS)))
    events: list[Event] = []
    while len(events) < STORY_EVENTS:
        motion = _any_motion(rng) if with_rest else MOTIONS[int(rng.integers(len(MOTIONS)))]
        event = replace(scene.random_event(rng, motion), background=background, other=None)
        if all(captions.noun(event.item) != captions.noun(other.item) for other in events):
            events.append(event)
    return tuple(events)


def _story_group(rng: Random, seen: set[tuple[object, ...]]) -> list[tuple[Event, ...]]:
    """Eight stories: the first two motions as they are or reversed, and all events in this or in the opposite order."""
    while True:
        a, b, c = _random_story(rng, with_rest=False)
        group: list[tuple[Event, ...]] = []
        for flip_a, flip_b, backwards in product((False, True), repeat=3):
            story = (_reversed(a) if flip_a else a, _reversed(b) if flip_b else b, c)
            group.append(story[::-1] if backwards else story)
        if _claim(group, seen):
            return group


def _reversed(event: Event) -> Event:
    return replace(event, motion=REVERSE[event.motion]) if event.motion is not None else event


def _single_story(rng: Random, seen: set[tuple[object, ...]]) -> tuple[Event, ...]:
    while True:
        story = _random_story(rng, with_rest=True)
        if _claim([story], seen):
            return story


def _spans(seconds: float, rng: Random) -> tuple[tuple[float, float], ...]:
    """Start and end of each event: equal parts, with each cut moved by up to a tenth of a part."""
    part = seconds / STORY_EVENTS
    cuts = [round(part * (k + float(rng.uniform(-0.1, 0.1))), 2) for k in range(1, STORY_EVENTS)]
    edges = [0.0, *cuts, seconds]
    return tuple(pairwise(edges))


def _public_id(seed: int, number: int) -> str:
    """An id of eleven characters, as in ActivityNet."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return base64.b32encode(digest).decode().lower()[:11]
