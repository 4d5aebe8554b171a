"""The language of the world of shapes: phrases, captions of clips and stills, and sentences of stories."""

from __future__ import annotations

from components.embedded.scene import Event, Item, Random

NUMBERS = {1: "a", 2: "two", 3: "three"}
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
# Pairs of (singular, plural). The first wording of each motion is the plainest.
VERBS: dict[str, tuple[tuple[str, str], ...]] = {
    "right": (
        ("moves from left to right", "move from left to right"),
        ("slides to the right", "slide to the right"),
        ("goes right", "go right"),
    ),
    "left": (
        ("moves from right to left", "move from right to left"),
        ("slides to the left", "slide to the left"),
        ("goes left", "go left"),
    ),
    "down": (
        ("moves from top to bottom", "move from top to bottom"),
        ("falls to the bottom", "fall to the bottom"),
        ("goes down", "go down"),
    ),
    "up": (
        ("moves from bottom to top", "move from bottom to top"),
        ("rises to the top", "rise to the top"),
        ("goes up", "go up"),
    ),
    "grow": (("grows larger", "grow larger"), ("gets bigger", "get bigger"), ("expands", "expand")),
    "shrink": (("shrinks", "shrink"), ("gets smaller", "get smaller"), ("contracts", "contract")),
    "appear": (("appears", "appear"), ("shows up", "show up"), ("comes into view", "come into view")),
    "leave": (("disappears", "disappear"), ("vanishes", "vanish"), ("goes out of view", "go out of view")),
}
RESTS = (("stays still", "stay still"), ("does not move", "do not move"))
OPENERS = (("", "", ""), ("first ", "then ", "finally "), ("at first ", "next ", "at the end "))


def noun(item: Item) -> str:
    """The noun phrase, such as ``a large red circle`` or ``two blue crosses``."""
    if item.count == 1:
        article = "an" if item.colour == "orange" and not item.size else "a"
        return f"{article} {item.size} {item.colour} {item.shape}"
    return f"{NUMBERS[item.count]} {item.colour} {PLURALS[item.shape]}"


def placed(item: Item) -> str:
    """The noun phrase with the place of the item."""
    where = "in the center" if item.place == "center" else f"at the {item.place}"
    return f"{noun(item)} {where}"


def verb(item: Item, motion: str | None, form: int) -> str:
    """The verb phrase of a motion in one of its wordings. It agrees in number, and ``None`` is rest."""
    forms = RESTS if motion is None else VERBS[motion]
    return forms[form % len(forms)][item.count > 1]


def clip_caption(event: Event, rng: Random) -> str:
    """A caption of a clip: what moves, how, next to what, and on which background."""
    text = f"{noun(event.item)} {verb(event.item, event.motion, int(rng.integers(3)))}"
    if event.other is not None:
        text += f" with {placed(event.other)}"
    ground = f"on a {event.background} background"
    return f"{ground} {text}" if rng.random() < 0.25 else f"{text} {ground}"


def story_sentences(events: tuple[Event, ...], rng: Random) -> list[str]:
    """One sentence per event, in order. The first one names the background."""
    opener = OPENERS[int(rng.integers(len(OPENERS)))]
    sentences = []
    for k, event in enumerate(events):
        text = f"{opener[k]}{noun(event.item)} {verb(event.item, event.motion, int(rng.integers(3)))}"
        if k == 0:
            text += f" on a {event.background} background"
        sentences.append(text + ".")
    return sentences


def still_caption(items: list[Item], motions: list[str | None], background: str, rng: Random) -> str:
    """A caption of a still: each item with its place, or with a verb if ``motions`` has one."""
    parts = []
    for item, motion in zip(items, motions, strict=True):
        parts.append(placed(item) if motion is None else f"{noun(item)} {verb(item, motion, int(rng.integers(3)))}")
    if len(parts) > 1 and rng.random() < 0.5:
        opener = OPENERS[int(rng.integers(len(OPENERS)))] if any(motions) else OPENERS[0]
        text = " ".join(f"{opener[k]}{part}." for k, part in enumerate(parts))
        return f"on a {background} background {text}" if rng.random() < 0.7 else text
    text = (" with " if len(parts) == 2 else " and ").join(parts)
    return f"{text} on a {background} background" if rng.random() < 0.7 else text
