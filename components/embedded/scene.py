"""The world of shapes: what it contains, how it moves and how it looks.

Places are in units of the frame. x grows to the right, y grows downwards, and (0.5, 0.5) is the centre. Time ``t`` runs
from 0 to 1 over one event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 44),
    "green": (52, 168, 70),
    "blue": (52, 96, 214),
    "yellow": (240, 206, 48),
    "purple": (146, 64, 186),
    "orange": (240, 136, 32),
}
BACKGROUNDS: dict[str, int] = {"black": 20, "gray": 128, "white": 235}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES: dict[str, float] = {"small": 0.13, "large": 0.21}
# The radius of each member of a group. Three in a row must fit.
GROUP_RADIUS = 0.115
GROUP_STEP = 0.29
PLACES: dict[str, tuple[float, float]] = {
    "top left": (0.22, 0.22),
    "top": (0.5, 0.22),
    "top right": (0.78, 0.22),
    "left": (0.22, 0.5),
    "center": (0.5, 0.5),
    "right": (0.78, 0.5),
    "bottom left": (0.22, 0.78),
    "bottom": (0.5, 0.78),
    "bottom right": (0.78, 0.78),
}
# In pairs: each is the other one played backwards, so that only the order of the frames tells them apart.
MOTIONS = ("right", "left", "down", "up", "grow", "shrink", "appear", "leave")
REVERSE = {motion: MOTIONS[index ^ 1] for index, motion in enumerate(MOTIONS)}

Image = NDArray[np.uint8]
Random = np.random.Generator


@dataclass(frozen=True)
class Item:
    """One thing, or several equal ones in a row. A noun phrase names it."""

    colour: str
    shape: str
    size: str  # for a single thing, since all groups have one size
    count: int
    place: str

    @property
    def radius(self) -> float:
        """The radius of one member in units of the frame."""
        return SIZES[self.size] if self.count == 1 else GROUP_RADIUS


@dataclass(frozen=True)
class Event:
    """One item that moves, or rests if ``motion`` is None, and perhaps a second one that always rests."""

    item: Item
    motion: str | None
    background: str
    other: Item | None = None


@dataclass(frozen=True)
class Disc:
    """One drawn shape. Centre and radius are in units of the frame, and the opacity is from 0 to 1."""

    shape: str
    rgb: tuple[int, int, int]
    x: float
    y: float
    radius: float
    opacity: float = 1.0


def random_item(rng: Random, places: tuple[str, ...] = tuple(PLACES)) -> Item:
    """A random item. Attributes are uniform, but singles are as frequent as groups of two and three together."""
    return Item(
        colour=_pick(rng, tuple(COLOURS)),
        shape=_pick(rng, SHAPES),
        size=_pick(rng, tuple(SIZES)),
        count=int(rng.choice([1, 1, 2, 3])),
        place=_pick(rng, places),
    )


def random_event(rng: Random, motion: str | None) -> Event:
    """An event in a random scene. Three in ten single items have a second item, which is not in their way."""
    item = replace(random_item(rng), place="center")
    other = None
    if item.count == 1 and rng.random() < 0.3:
        corner = _pick(rng, ("top left", "top right", "bottom left", "bottom right"))
        other = replace(random_item(rng), count=1, size="small", place=corner)
        if (other.colour, other.shape) == (item.colour, item.shape):
            other = replace(other, colour=_pick(rng, tuple(c for c in COLOURS if c != item.colour)))
        item = replace(item, size="small")
    return Event(item, motion, _pick(rng, tuple(BACKGROUNDS)), other)


@dataclass(frozen=True)
class Jitter:
    """Small shifts that no caption names. They make all videos of one event different."""

    start: float
    end: float
    lane: float
    colour: tuple[int, int, int]
    drift: tuple[float, float]


def random_jitter(rng: Random) -> Jitter:
    """Random shifts of a few hundredths of the frame and a few colour levels."""
    return Jitter(
        start=float(rng.uniform(-0.03, 0.03)),
        end=float(rng.uniform(-0.03, 0.03)),
        lane=float(rng.uniform(-0.1, 0.1)),
        colour=tuple(int(v) for v in rng.integers(-12, 13, 3)),  # type: ignore[arg-type]
        drift=(float(rng.uniform(-0.04, 0.04)), float(rng.uniform(-0.04, 0.04))),
    )


def discs_at(event: Event, t: float, jitter: Jitter) -> list[Disc]:
    """The shapes to draw for ``event`` at time ``t`` in [0, 1]."""
    discs = _other_discs(event.other, jitter) if event.other is not None else []
    x, y = PLACES[event.item.place]
    x, y = x + jitter.drift[0], y + jitter.drift[1]
    growth, opacity = 1.0, 1.0
    lane = 0.5 + (jitter.lane if event.item.count == 1 else 0.0)
    if event.other is not None:
        # The item in the corner stays there, and the moving one stays in the other half.
        lane = 0.64 if PLACES[event.other.place][1] < 0.5 else 0.36
    forward = event.motion in ("right", "down", "grow", "appear")
    phase = t if forward else 1.0 - t
    along = (0.2 + jitter.start) + phase * (0.6 - jitter.start + jitter.end)
    if event.motion in ("right", "left"):
        x, y = along, lane
    elif event.motion in ("down", "up"):
        if event.other is not None:
            lane = 0.64 if PLACES[event.other.place][0] < 0.5 else 0.36
        x, y = lane, along
    elif event.motion in ("grow", "shrink"):
        growth = 0.45 + 0.9 * phase
    elif event.motion in ("appear", "leave"):
        opacity = float(np.clip((phase - 0.35 + jitter.start) / 0.25, 0.0, 1.0))
    across = event.motion in ("right", "left")  # a group that moves sideways is a column, or it would not fit
    return discs + _members(event.item, x, y, growth, opacity, across, jitter)


def _other_discs(other: Item, jitter: Jitter) -> list[Disc]:
    x, y = PLACES[other.place]
    return _members(other, x - jitter.drift[0], y - jitter.drift[1], 1.0, 1.0, False, jitter)


def _members(item: Item, x: float, y: float, growth: float, opacity: float, column: bool, jitter: Jitter) -> list[Disc]:
    base = COLOURS[item.colour]
    rgb = tuple(int(np.clip(base[k] + jitter.colour[k], 0, 255)) for k in range(3))
    radius = item.radius * growth
    # Growing members of a group must not touch each other.
    if item.count > 1 and growth > 1.0:
        radius = item.radius * (1.0 + (growth - 1.0) * 0.5)
    discs = []
    for k in range(item.count):
        shift = (k - (item.count - 1) / 2) * GROUP_STEP
        px, py = (x, y + shift) if column else (x + shift, y)
        discs.append(Disc(item.shape, rgb, px, py, radius, opacity))  # type: ignore[arg-type]
    return discs


def backdrop(background: str, size: int, grain: float, rng: Random) -> Image:
    """A plain gray picture ``uint8[size, size, 3]`` with a faint slope and noise.

    Args:
        background: A key of :data:`BACKGROUNDS`.
        size: The size in pixels.
        grain: The standard deviation of the noise in gray levels.
        rng: Draws slope and noise.
    """
    ramp = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    slope = rng.uniform(-6, 6, 2).astype(np.float32)
    plane = BACKGROUNDS[background] + slope[0] * ramp[:, None] + slope[1] * ramp[None, :]
    noise = grain * rng.standard_normal((size, size), dtype=np.float32)
    gray = np.clip(plane + noise + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def paint(canvas: Image, discs: list[Disc]) -> Image:
    """``canvas`` with the shapes drawn on it in order, ``uint8[H, W, 3]``. Edges are one pixel soft."""
    frame = canvas.copy()
    for disc in discs:
        if disc.opacity > 0.0:
            _draw(frame, disc)
    return frame


def _draw(frame: Image, disc: Disc) -> None:
    size = frame.shape[0]
    reach = disc.radius * 1.2 + 1.0 / size
    x0, x1 = (int(np.clip(v * size, 0, size)) for v in (disc.x - reach, disc.x + reach + 1.0 / size))
    y0, y1 = (int(np.clip(v * size, 0, size)) for v in (disc.y - reach, disc.y + reach + 1.0 / size))
    if x0 >= x1 or y0 >= y1:
        return
    xs = (np.arange(x0, x1, dtype=np.float32) + 0.5) / size - np.float32(disc.x)
    ys = (np.arange(y0, y1, dtype=np.float32) + 0.5) / size - np.float32(disc.y)
    distance = _distance(disc.shape, xs[None, :], ys[:, None], disc.radius)
    cover = (np.clip(0.5 - distance * size, 0.0, 1.0) * np.float32(disc.opacity))[:, :, None]
    patch = frame[y0:y1, x0:x1].astype(np.float32)
    frame[y0:y1, x0:x1] = patch + cover * (np.asarray(disc.rgb, np.float32) - patch) + 0.5


def _distance(shape: str, x: NDArray[np.float32], y: NDArray[np.float32], r: float) -> NDArray[np.float32]:
    """The signed distance to the outline in units of the frame, negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - np.float32(r)
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.86 * r)
    if shape == "triangle":
        slanted = (np.abs(x) * 1.85 - y) / 2.1  # two sides that meet at the top
        return np.maximum(slanted - np.float32(0.48 * r), y - np.float32(0.85 * r))
    if shape == "cross":
        upright = np.maximum(np.abs(x) - 0.32 * r, np.abs(y) - r)
        level = np.maximum(np.abs(y) - 0.32 * r, np.abs(x) - r)
        return np.minimum(upright, level)
    raise ValueError(f"unknown shape {shape!r}")


def _pick(rng: Random, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
