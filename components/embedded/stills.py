"""Still pictures with captions, made on the fly, as training data of the mini CLIP.

Captions of stills name colours, shapes, counts, sizes and places. A fraction of them has a verb of motion instead of a
place, like captions of photographs ("a ball rolls to the right"). The picture then shows a late moment of that motion.
Without verbs here, the text tower could not distinguish the motion words later, when it is frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from components.embedded import captions, scene
from components.embedded.scene import MOTIONS, PLACES, Event, Item, Jitter, Random

ATTRIBUTES = ("colour", "shape", "size", "count", "place")
GRAIN = 2.5  # noise in gray levels, more than in the videos, so that their compression does no harm
LIKENESS = 0.6  # probability that the pictures of a group share an attribute
MIDDLE_ROW_PLACES = ("top", "center", "bottom")


@dataclass(frozen=True)
class Theme:
    """What the pictures in one group of a batch have in common, so that the rest must tell them apart."""

    item: Item
    shared: frozenset[str]
    background: str | None
    kind: str  # "places" | "motions" | "several"


def random_theme(rng: Random, motion_share: float) -> Theme:
    """A random theme. A fraction of ``motion_share`` is about verbs."""
    shared = frozenset(name for name in ATTRIBUTES if rng.random() < LIKENESS)
    background = str(rng.choice(list(scene.BACKGROUNDS))) if rng.random() < LIKENESS else None
    kind = "motions" if rng.random() < motion_share else str(rng.choice(["places", "several"]))
    return Theme(scene.random_item(rng), shared, background, kind)


def still(theme: Theme, size: int, motion_share: float, rng: Random) -> tuple[NDArray[np.uint8], str]:
    """One picture ``uint8[size, size, 3]`` and its caption."""
    item = replace(
        scene.random_item(rng), **{name: getattr(theme.item, name) for name in theme.shared if name != "place"}
    )
    if "place" in theme.shared and theme.kind != "motions":
        item = replace(item, place=theme.item.place)
    background = theme.background or str(rng.choice(list(scene.BACKGROUNDS)))
    jitter = scene.random_jitter(rng)
    canvas = scene.backdrop(background, size, GRAIN, rng)
    if theme.kind == "motions":
        event = replace(scene.random_event(rng, str(rng.choice(MOTIONS))), background=background)
        event = replace(event, item=replace(item, place="center", size="small" if event.other else item.size))
        if event.item.count > 1:
            event = replace(event, other=None)
        discs = scene.discs_at(event, late_moment(event, rng), jitter)
        return scene.paint(canvas, discs), captions.clip_caption(event, rng)
    if theme.kind == "places":
        item = _that_fits(item)
        return scene.paint(canvas, _resting(item, jitter)), captions.still_caption([item], [None], background, rng)
    return _several(item, background, canvas, motion_share, jitter, rng)


def late_moment(event: Event, rng: Random) -> float:
    """A time in [0, 1], more often late than early. Something is in sight at that time."""
    t = float(rng.beta(2.5, 1.0))
    return min(t, 0.55) if event.motion == "leave" else max(t, 0.45) if event.motion == "appear" else t


def _several(
    first: Item, background: str, canvas: NDArray[np.uint8], motion_share: float, jitter: Jitter, rng: Random
) -> tuple[NDArray[np.uint8], str]:
    count = int(rng.integers(2, 4))
    places = [str(p) for p in rng.permutation(list(PLACES))[:count]]
    items = [replace(first, count=1, size="small", place=places[0])]
    items += [replace(scene.random_item(rng), count=1, size="small", place=place) for place in places[1:]]
    with_verbs = rng.random() < motion_share
    motions: list[str | None] = [_suiting(item.place, rng) if with_verbs else None for item in items]
    discs = []
    for item in items:
        drift = (float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.03, 0.03)))
        discs += _resting(item, replace(jitter, drift=drift))
    return scene.paint(canvas, discs), captions.still_caption(items, motions, background, rng)


def _suiting(place: str, rng: Random) -> str | None:
    """A verb with a late moment at ``place``, or None."""
    options: list[str | None] = [word for word in ("right", "left") if word in place]
    options += [verb for edge, verb in (("top", "up"), ("bottom", "down")) if edge in place]
    return options[int(rng.integers(len(options)))] if options else None


def _that_fits(item: Item) -> Item:
    if item.count > 1 and item.place not in MIDDLE_ROW_PLACES:
        return replace(item, place=MIDDLE_ROW_PLACES[list(PLACES).index(item.place) // 3])
    return item


def _resting(item: Item, jitter: Jitter) -> list[scene.Disc]:
    return scene.discs_at(Event(item, None, "gray"), 0.0, jitter)


def batch(size: int, count: int, group: int, motion_share: float, rng: Random) -> tuple[NDArray[np.uint8], list[str]]:
    """Makes ``count`` pictures, in groups of ``group`` with one theme.

    Returns:
        The pictures ``uint8[count, size, size, 3]`` and their captions.
    """
    pictures, texts = [], []
    theme = random_theme(rng, motion_share)
    for k in range(count):
        if k % group == 0:
            theme = random_theme(rng, motion_share)
        picture, text = still(theme, size, motion_share, rng)
        pictures.append(picture)
        texts.append(text)
    return np.stack(pictures), texts
