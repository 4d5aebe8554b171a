"""Windows of long files: where they begin and end, and how their frames are kept in one pass over the file.

A decoder shows each wanted frame once, in the order of the file. The frame becomes a JPEG at once, which all windows
that have the frame share. A window is given away when its last frame is there. So memory holds the frames of the open
windows, and the few of the file's own row.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.frames.jpeg import encode_frames
from components.ingest import sampling
from components.ingest.decoders.base import Choose, DecodeError, FrameTimes
from components.ingest.resize import fitted_size, resize_frame

Span = tuple[float, float]  # start and end in seconds

# A rest of the file that is a smaller part of a window than this belongs to the last window.
SMALLEST_REST = 0.1

# The most windows of one file. A day in windows of 10 s that overlap by half has 17,279.
MOST_WINDOWS = 20_000

# A frame that no other one follows counts as shown for so long.
STILL_SECONDS = 600.0

# Shots are found, and their frames chosen, among so many frames of each second.
LOOKS_PER_SECOND = 4

# Side in pixels of the pictures that are compared.
LOOK_SIDE = 16

# Receives a window: its span, the numbers and times of its frames, and their JPEGs. None for the span means that the
# file is decoded from its start again, and that all windows so far do not count.
Emit = Callable[[Span | None, Sequence[int], Sequence[float], Sequence[bytes]], None]


def fixed_spans(
    start: float, end: float, seconds: float, overlap: float, times: Sequence[float] | None = None
) -> list[Span]:
    """Cuts a part of a file into windows of equal length.

    Each begins a window's length without the overlap after the one before. The last one ends with the part, so that it
    may overlap more, unless the rest is smaller than :data:`SMALLEST_REST` of a window: then the window before is
    longer.

    Args:
        start, end: The part in seconds.
        seconds: The length of a window.
        overlap: The share that two windows have in common, below 1.
        times: When the file shows its frames, in seconds, ascending. Windows in which no picture is on the screen are
            left out. A frame stays there until the next one comes, for :data:`STILL_SECONDS` at most.

    Returns:
        At least two spans in whole milliseconds, or none if the part is not longer than a window.

    Raises:
        DecodeError: There are more than :data:`MOST_WINDOWS`.
    """
    low, high, length = round(start * 1000), math.ceil(end * 1000 - 1e-6), round(seconds * 1000)
    if not is_long(low / 1000, high / 1000, seconds):
        return []
    step = max(1, round(length * (1 - overlap)))
    last = low + (high - length - low) // step * step
    spans: list[tuple[int, int]] = []
    first = low
    while first <= last:
        if times is not None and not (shown := _on_screen(times, (first / 1000, (first + length) / 1000))):
            if shown.start == len(times):
                break
            # On to the first window that holds the next frame.
            later = times[shown.start] * 1000 - length - low
            first = max(first + step, low + (math.floor(later / step) + 1) * step)
            continue
        if len(spans) == MOST_WINDOWS:
            raise DecodeError("too_many_windows", f"more than {MOST_WINDOWS}")
        spans.append((first, first + length))
        first += step
    if high - (last + length) >= SMALLEST_REST * length:
        spans.append((high - length, high))
    elif spans and spans[-1][0] == last:
        spans[-1] = (last, high)
    else:
        spans.append((last, high))
    return [(first / 1000, last / 1000) for first, last in spans]


def is_long(start: float, end: float, seconds: float) -> bool:
    """Whether a part of a file is cut: it is longer than a window by :data:`SMALLEST_REST` at least."""
    return round((end - start) * 1000) >= round(seconds * 1000) * (1 + SMALLEST_REST)


@dataclass
class _Row:
    """Frames that belong together, as far as they have been seen."""

    span: Span | None = None
    missing: int = 0
    indices: list[int] = field(default_factory=list)
    jpegs: list[bytes] = field(default_factory=list)
    looks: list[NDArray[np.uint8]] = field(default_factory=list)


class WindowPlan:
    """Chooses the frames of a file and of its windows, and receives them. It is a decoder's ``choose`` and ``take``.

    Args:
        settings: The recipe of the decoding process, with ``windows``.
        span: The part of the file that is the video. None means its start or end.
        seed: The file's name, for random rules.
        source: Chooses the frames of the video's own row.
        emit: Receives the windows.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        span: tuple[float | None, float | None],
        seed: str,
        source: Choose,
        emit: Emit,
    ) -> None:
        self._settings, self._span, self._seed = settings, span, seed
        self._choose_source, self._emit = source, emit
        self._cut: dict[str, Any] = settings["windows"]
        self._emitted = False
        self._begin([])

    def _begin(self, times: Sequence[float]) -> None:
        self._times = times
        self.source = _Row()
        self.shape = (0, 0)  # height and width of the file's first frame
        self._wanted: set[int] = set()
        self._size: tuple[int, int] | None = None
        self._rows_of: dict[int, list[_Row]] = {}
        self._looks: set[int] = set()
        self._shot: _Row | None = None
        self._before: NDArray[np.float32] | None = None
        if self._emitted:
            self._emit(None, (), (), ())
            self._emitted = False

    def __call__(self, times: Sequence[float]) -> list[int]:
        """The numbers of all wanted frames, ascending. What was received before does not count any more."""
        self._begin(times)
        if not (source := self._choose_source(times)):
            return []
        self._wanted = set(source)
        start, end = self._part(times)
        self._end = end
        if self._cut["cut"] == "shots":
            if is_long(start, end, self._cut["seconds"]):
                self._looks = set(looks(times, start, end))
                self._shot = _Row((start, end))
        else:
            for span in fixed_spans(start, end, self._cut["seconds"], self._cut["overlap"], times):
                self._expect(span)
        return sorted(self._wanted | self._looks | self._rows_of.keys())

    def _part(self, times: Sequence[float]) -> Span:
        """Where the video begins and ends in the file."""
        start, end = self._span
        length = times.end_seconds if isinstance(times, FrameTimes) else _usual_end(times)
        low = 0.0 if start is None else start
        high = length if end is None else min(end, length)
        return low, math.ceil(high * 1000 - 1e-6) / 1000

    def _expect(self, span: Span) -> None:
        """Plans a window. One without a frame has the picture that is still on the screen, else it does not exist."""
        inside = _on_screen(self._times, span)
        if not (indices := self._candidates(inside, span)):
            return
        row = _Row(span, missing=len(indices))
        for index in indices:
            self._rows_of.setdefault(index, []).append(row)

    def _candidates(self, inside: range, span: Span) -> list[int]:
        times, count = self._times[inside.start : inside.stop], self._settings["frames"]
        if self._settings["sampling"] == sampling.ADAPTIVE:
            return [inside[place] for place in sampling.segment_center(len(inside), count * sampling.CANDIDATES)]
        rule = sampling.RULES[self._settings["sampling"]]
        return [inside[place] for place in rule(times, count, f"{self._seed}@{span[0]:.3f}")]

    def take(self, index: int, picture: NDArray[np.uint8]) -> None:
        """Receives a wanted frame. Frames come in the order of their numbers.

        Args:
            index: The number of the frame in the file.
            picture: ``uint8[H, W, 3]``, RGB.
        """
        if self._size is None:  # the first frame decides the size of all
            self.shape = (picture.shape[0], picture.shape[1])
            self._size = fitted_size(picture.shape[1], picture.shape[0], self._settings["size"])
        stored = resize_frame(picture, self._size)
        jpeg = encode_frames(stored[None], self._settings["quality"], self._settings["chroma"])[0]
        if index in self._wanted:
            self.source.indices.append(index)
            self.source.jpegs.append(jpeg)
        look = _look(stored) if self._shot is not None or self._settings["sampling"] == sampling.ADAPTIVE else None
        for row in self._rows_of.pop(index, []):
            self._add(row, index, jpeg, look)
            row.missing -= 1
            if not row.missing:
                self._give(row)
        if look is not None and index in self._looks:
            self._look_at(index, jpeg, look)

    def _add(self, row: _Row, index: int, jpeg: bytes, look: NDArray[np.uint8] | None) -> None:
        row.indices.append(index)
        row.jpegs.append(jpeg)
        if look is not None:
            row.looks.append(look)

    def _look_at(self, index: int, jpeg: bytes, look: NDArray[np.uint8]) -> None:
        """Adds a frame to the shot, or ends the shot before it."""
        assert self._shot is not None
        assert self._shot.span is not None
        picture, (start, end), time = look.astype(np.float32), self._shot.span, self._times[index]
        changed = self._before is not None and _change(self._before, picture) > self._cut["change"]
        self._before = picture
        longest = self._cut["seconds"]
        if not self._shot.indices and time - start >= longest:  # nothing is shown at the beginning of the part
            self._shot.span, start = (time, end), time
        if self._shot.indices and (time - start >= longest or (changed and time - start >= self._cut["shortest"])):
            cut = round(min(time, start + longest), 3)
            self._end_shot(cut)
            # Where the file shows nothing for longer than a window, there is none.
            self._shot = _Row((cut if time - cut < longest else time, end))
        self._add(self._shot, index, jpeg, look)

    def _end_shot(self, end: float) -> None:
        row = self._shot
        assert row is not None
        assert row.span is not None
        row.span = (row.span[0], end)
        if self._settings["sampling"] != sampling.ADAPTIVE:
            rule = sampling.RULES[self._settings["sampling"]]
            times = [self._times[index] for index in row.indices]
            places = rule(times, self._settings["frames"], f"{self._seed}@{row.span[0]:.3f}")
            row.indices, row.jpegs = [row.indices[at] for at in places], [row.jpegs[at] for at in places]
        self._give(row)

    def finish(self) -> None:
        """Gives away the last shot. Call it when the decoder has returned.

        It ends with the video. If its last picture stays on the screen for longer than a window, it ends before.
        """
        if self._shot is not None and self._shot.indices:
            assert self._shot.span is not None
            longest = self._shot.span[0] + self._cut["seconds"]
            self._end_shot(round(min(self._end, max(longest, _usual_end(self._times))), 3))
        self._shot = None

    def _give(self, row: _Row) -> None:
        if self._settings["sampling"] == sampling.ADAPTIVE:
            places = sampling.most_different(np.stack(row.looks), self._settings["frames"])
            row.indices, row.jpegs = [row.indices[at] for at in places], [row.jpegs[at] for at in places]
        self._emit(row.span, row.indices, [self._times[index] for index in row.indices], row.jpegs)
        self._emitted = True

    def source_times(self) -> list[float]:
        """The times of the frames of the video's own row."""
        return [self._times[index] for index in self.source.indices]

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Height and width of the stored frames in pixels. There must be one."""
        assert self._size is not None
        return self._size[1], self._size[0]


def _usual_end(times: Sequence[float]) -> float:
    """Where a file ends whose last frame lasts as long as the middle one."""
    return times[-1] + (float(np.median(np.diff(times))) if len(times) > 1 else 0.0)


def looks(times: Sequence[float], start: float, end: float) -> Iterator[int]:
    """The first frame of each quarter of a second, among which shots are found."""
    inside = _inside(times, (start, end))
    place, tick = inside.start, 0
    while place < inside.stop:
        yield place
        # The next tick that is later than this frame.
        tick = max(tick + 1, math.floor((times[place] - start) * LOOKS_PER_SECOND + 1e-6) + 1)
        place = bisect_left(times, start + tick / LOOKS_PER_SECOND - 1e-6, place + 1, inside.stop)


def _inside(times: Sequence[float], span: Span) -> range:
    return range(bisect_left(times, span[0]), bisect_left(times, span[1]))


def _on_screen(times: Sequence[float], span: Span) -> range:
    """The frames that appear in a span, else the one that is still shown. Else none, before the next frame."""
    inside = _inside(times, span)
    if not inside and inside.start and span[0] - times[inside.start - 1] <= STILL_SECONDS:
        return range(inside.start - 1, inside.start)
    return inside


def _look(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame as a small square of means, which hide noise and small movements."""
    small = Image.fromarray(picture).resize((LOOK_SIDE, LOOK_SIDE), Image.Resampling.BOX)
    return np.asarray(small)


def _change(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    return float(np.abs(after - before).mean()) / 255
