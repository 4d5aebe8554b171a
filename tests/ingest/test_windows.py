"""Windows of long files: they cover the file, show what the file shows there, and cost one pass and little memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from counted import HEIGHT, WIDTH, number_of, write_counted
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.config import check
from components.errors import ConfigError
from components.frames.jpeg import decode_frames
from components.ingest import child, windows
from components.ingest.decoders import DECODERS, collector
from components.ingest.decoders.auto import HAS_DECORD
from components.ingest.decoders.base import DecodeError, FrameTimes
from components.ingest.isolation import DecodeProcess, Outcome, Recipe
from components.ingest.spool import Spool, Window
from components.ingest.windows import SMALLEST_REST, Span, WindowPlan, fixed_spans, looks
from components.task import WindowSettings
from components.video import window_id

SECONDS = 25
HALF = WindowSettings(seconds=5, overlap=0.5)


def recipe(windows: WindowSettings | None, decoder: str = "auto", sampling: str = "segment_center") -> Recipe:
    return Recipe(DECODERS.target(decoder), sampling, 4, 96, 95, 444, windows)


def decode(
    path: Path, made: Recipe, start: float | None = None, end: float | None = None
) -> tuple[Outcome, list[Window]]:
    """What the decoding process does, in this process."""
    request = {"path": str(path), "start_seconds": start, "end_seconds": end}
    with Spool(path.parent) as spool:

        def emit(span: Span | None, indices: Sequence[int], times: Sequence[float], jpegs: Sequence[bytes]) -> None:
            spool.add({"window": span, "frame_indices": list(indices), "timestamps_seconds": list(times)}, jpegs)

        header, jpegs = child.answer(child.load_decoder(made.decoder), made.to_dict(), request, emit)
        if header["reason"] is not None:
            return Outcome(header["reason"]), []
        row = {**header["row"], "frames": jpegs}
        return Outcome(None, row=row), list(spool.windows(row))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_counted(tmp_path_factory.mktemp("long") / "long.mp4", frames=25 * SECONDS)


@given(st.floats(0, 100), st.floats(0.04, 400), st.floats(0.5, 600), st.floats(0, 0.9))
@limits(deadline=None, max_examples=60)
def test_fixed_windows_cover_the_part_and_overlap_as_set(
    start: float, length: float, seconds: float, overlap: float
) -> None:
    spans = fixed_spans(start, start + length, seconds, overlap)
    if not spans:
        assert length < seconds * (1 + SMALLEST_REST) + 0.003
        return
    assert len(spans) >= 2
    assert spans[0][0] == round(start, 3)
    assert start + length - 1e-6 <= spans[-1][1] <= start + length + 0.0011
    hop, rounding = seconds * (1 - overlap), 0.0021
    assert all(abs(after[0] - before[0] - hop) < rounding for before, after in pairwise(spans[:-1]))
    assert all(abs(high - low - seconds) < rounding for low, high in spans[:-1])
    # The last one ends with the part. It is as long as the others, or longer by a small rest.
    assert seconds - rounding <= spans[-1][1] - spans[-1][0] <= seconds * (1 + SMALLEST_REST) + rounding
    assert all(before[0] < after[0] <= before[1] for before, after in pairwise(spans))
    assert len({window_id("a", *span) for span in spans}) == len(spans)


def test_the_last_window_ends_with_the_file() -> None:
    assert fixed_spans(0, 25, 10, 0) == [(0, 10), (10, 20), (15, 25)]
    assert fixed_spans(0, 20.9, 10, 0) == [(0, 10), (10, 20.9)]
    assert fixed_spans(0, 10.9, 10, 0.5) == []
    assert fixed_spans(3, 23, 10, 0.5) == [(3, 13), (8, 18), (13, 23)]


def test_a_still_picture_is_in_windows_until_the_next_one() -> None:
    """Slides: two seconds of pictures, a pause of 38 s, two more seconds. The pause is found too."""
    times = [*(number / 10 for number in range(20)), *(40 + number / 10 for number in range(20))]
    assert fixed_spans(0, 42, 10, 0.5, times) == fixed_spans(0, 42, 10, 0.5)


def test_a_jump_of_the_clock_makes_no_windows_without_a_picture() -> None:
    jump = 2e8
    times = [*range(30), *(jump + number for number in range(30))]
    spans = fixed_spans(0, jump + 30, 10, 0, times)
    assert len(spans) < 2 * (30 + windows.STILL_SECONDS) / 10
    for first in times:
        assert any(start <= first < end for start, end in spans), first


def test_more_windows_than_anybody_wants_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MOST_WINDOWS", 20)
    assert len(fixed_spans(0, 20, 1, 0)) == 20
    with pytest.raises(DecodeError, match=r"too_many_windows.*more than 20"):
        fixed_spans(0, 21, 1, 0)


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        ({"seconds": 0}, "seconds"),
        ({}, "seconds: missing"),
        ({"seconds": 10, "overlap": 1.0}, "overlap"),
        ({"seconds": 10, "overlap": 5}, "overlap"),
        ({"seconds": 10, "cut": "scenes"}, "cut"),
        ({"seconds": 10, "cut": "shots", "overlap": 0.5}, "shots do not overlap: set it to 0, or cut to fixed"),
        ({"seconds": 10, "cut": "shots", "shortest": 10}, r"shortest is 10 s, expected less than seconds \(10\)"),
        ({"seconds": 10, "length": 3}, "unknown key"),
    ],
)
def test_settings_that_cannot_be_are_named(tree: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        check(WindowSettings, tree, "params.yaml")


@pytest.mark.parametrize("decoder", ["auto", "pyav", *(["decord"] if HAS_DECORD else [])])
def test_windows_show_their_part_and_the_file_s_row_stays_as_it_is(long: Path, decoder: str) -> None:
    plain, none = decode(long, recipe(None, decoder))
    outcome, windows = decode(long, recipe(HALF, decoder))
    assert none == []
    assert outcome.row == plain.row
    assert [(w.start_seconds, w.end_seconds) for w in windows] == fixed_spans(0, SECONDS, 5, 0.5)
    for window in windows:
        row = window.row
        shown = [number_of(picture) for picture in decode_frames(row["frames"])]
        assert shown == row["frame_indices"]
        low, high = round(25 * window.start_seconds), round(25 * window.end_seconds)
        bounds = [low + (high - low) * step // 4 for step in range(5)]
        expected = [(a + b - 1) // 2 for a, b in pairwise(bounds)]  # those that a file of this length would have
        assert np.allclose(row["frame_indices"], expected, atol=1)
        assert row["timestamps_seconds"] == [number / 25 for number in shown]
        assert row["content_sha256"] == plain.row["content_sha256"]
        assert row["duration_seconds"] == SECONDS


@pytest.mark.parametrize("name", ["a.avi", "a.ts", "a.mkv"])
def test_containers_without_seeking_are_cut_too(tmp_path: Path, name: str) -> None:
    path = write_counted(tmp_path / name, frames=200, options={"bf": "0"})
    plain, _ = decode(path, recipe(None))
    outcome, windows = decode(path, recipe(WindowSettings(seconds=2)))
    assert outcome.row == plain.row
    assert len(windows) == 4
    for window in windows:
        numbers = [number_of(picture) for picture in decode_frames(window.row["frames"])]
        assert numbers == window.row["frame_indices"]
        assert all(window.start_seconds <= number / 25 < window.end_seconds for number in numbers)


def write_slides(path: Path, last_seconds: float) -> Path:
    """Writes 20 pictures in two seconds and one that stays on the screen."""
    plain = write_counted(path.with_name(f"plain{path.suffix}"), frames=21, times=lambda number: 100 * number)
    with av.open(str(plain)) as reads, av.open(str(path), "w") as writes:
        stream = reads.streams.video[0]
        copy = writes.add_stream_from_template(stream)
        packets = [packet for packet in reads.demux(stream) if packet.size]
        for packet in packets:
            assert packet.time_base is not None
            if packet is packets[-1]:
                packet.duration = round(last_seconds / packet.time_base)
            packet.stream = copy
            writes.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_windows_end_where_the_last_picture_ends(tmp_path: Path, suffix: str) -> None:
    path = write_slides(tmp_path / f"slides{suffix}", last_seconds=22)
    outcome, windows = decode(path, recipe(WindowSettings(seconds=10)))
    assert outcome.row["duration_seconds"] == 24
    assert [(w.start_seconds, w.end_seconds) for w in windows] == [(0, 10), (10, 20), (14, 24)]
    assert [w.row["frame_indices"][-1] for w in windows[1:]] == [20, 20]
    # A shot is no longer than a window, and ends with the file where it can.
    for seconds, end in ((10, 10), (30, 24), (20, 20)):
        _, shots = decode(path, recipe(WindowSettings(seconds=seconds, cut="shots", change=1.0)))
        assert [(w.start_seconds, w.end_seconds) for w in shots] == ([(0, end)] if seconds < 24 else [])


def test_without_the_length_of_the_last_picture_it_lasts_as_long_as_others(long: Path) -> None:
    plan = WindowPlan(recipe(HALF).to_dict(), (None, None), "long", lambda times: [0], lambda *window: None)
    assert plan._part([0.0, 1.0, 2.0, 5.0]) == (0, 6)
    assert plan._part(FrameTimes([0.0, 1.0, 2.0, 5.0], 30.0)) == (0, 30)


def test_a_segment_is_cut_inside_its_span(long: Path) -> None:
    outcome, windows = decode(long, recipe(WindowSettings(seconds=4)), 3.0, 14.0)
    assert outcome.row["frame_indices"] == decode(long, recipe(None), 3.0, 14.0)[0].row["frame_indices"]
    assert [(w.start_seconds, w.end_seconds) for w in windows] == [(3, 7), (7, 11), (10, 14)]
    assert all(w.start_seconds <= t < w.end_seconds for w in windows for t in w.row["timestamps_seconds"])
    beyond, none = decode(long, recipe(HALF), 3.0, 40.0)
    assert (beyond.reason, none) == ("outside_file", [])


@pytest.mark.parametrize("cut", ["fixed", "shots"])
def test_a_short_file_is_one_row(tmp_path: Path, cut: str) -> None:
    path = write_counted(tmp_path / "short.mp4", frames=100)
    windows = WindowSettings(seconds=4, cut=cut)  # type: ignore[arg-type]
    outcome, none = decode(path, recipe(windows))
    assert none == []
    assert outcome.row == decode(path, recipe(None))[0].row


@pytest.mark.parametrize("sampling", ["uniform", "segment_random", "clip4clip", "adaptive"])
def test_every_rule_picks_inside_windows(long: Path, sampling: str) -> None:
    outcome, windows = decode(long, recipe(HALF, "pyav", sampling))
    assert outcome.row == decode(long, recipe(None, "pyav", sampling))[0].row
    assert len(windows) == 9
    for window in windows:
        assert len(window.row["frames"]) == 4
        times = window.row["timestamps_seconds"]
        assert times == sorted(times)
        assert window.start_seconds <= times[0] <= times[-1] < window.end_seconds


def test_a_file_is_decoded_once_however_many_windows_it_has(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_packets: list[int | None] = []
    whole = collector._packets

    def counting(container: object, stream: object) -> Iterator[av.Packet]:
        for packet in whole(container, stream):  # type: ignore[arg-type]
            given_packets.append(packet.pts)
            yield packet

    monkeypatch.setattr(collector, "_packets", counting)
    outcome, windows = decode(long, recipe(WindowSettings(seconds=2, overlap=0.9), "pyav"))
    assert outcome.reason is None
    assert len(windows) == 116
    packets = [pts for pts in given_packets if pts is not None]
    assert len(packets) <= 1.05 * 25 * SECONDS, "a window is not a pass of its own"


def write_noise(path: Path, minutes: int) -> Path:
    """Writes noise, of which even small JPEGs are large: a picture every two seconds."""
    random = np.random.default_rng(0)
    pictures = (random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(30 * minutes))
    return write_counted(path, pictures=pictures, times=lambda number: 2000 * number, options={"crf": "28"})


def held_by_child(path: Path) -> tuple[float, float]:
    """Returns the highest memory of a decoding process, and the size of all windows that it gave away, in MiB."""
    made = replace(recipe(WindowSettings(seconds=24, overlap=0.5), "pyav"), frames=12)
    with DecodeProcess(made, 60) as process, Spool(path.parent) as spool:
        outcome = process.decode(str(path), None, None, spool)
        assert outcome.reason is None
        assert process._child is not None
        status = Path(f"/proc/{process._child.pid}/status").read_text()
        size = sum(len(jpeg) for window in outcome.windows for jpeg in window.row["frames"])
    return int(status.split("VmHWM:")[1].split()[0]) / 1024, size / 2**20


def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path: Path) -> None:
    short, few = held_by_child(write_noise(tmp_path / "short.mp4", minutes=2))
    long, many = held_by_child(write_noise(tmp_path / "long.mp4", minutes=20))
    more = (many - few) / 2  # two windows have each frame
    assert more > 10
    assert long - short < more / 4


def scenes(lengths: list[int]) -> Iterator[NDArray[np.uint8]]:
    """Shots of so many frames: each has a colour, and a square that moves through it."""
    colours = itertools.cycle([(200, 60, 40), (40, 90, 180), (90, 180, 60), (210, 200, 190), (30, 30, 40)])
    for length, colour in zip(lengths, colours, strict=False):
        for number in range(length):
            picture = np.full((96, 160, 3), colour, np.uint8)
            left = abs(2 * number % 240 - 120)
            picture[20:60, left : left + 40] = 255 - np.array(colour, np.uint8)
            yield picture


def best_overlap(shot: tuple[float, float], spans: list[tuple[float, float]]) -> float:
    """Returns the highest intersection over union of a shot with any window."""
    return max(
        max(0.0, min(shot[1], high) - max(shot[0], low)) / (max(shot[1], high) - min(shot[0], low))
        for low, high in spans
    )


def test_shots_are_found_and_fit_better_than_fixed_windows(tmp_path: Path) -> None:
    lengths = [80, 137, 45, 250, 61, 30, 400, 95]
    path = write_counted(tmp_path / "shots.mp4", frames=sum(lengths), pictures=scenes(lengths))
    bounds = [0, *itertools.accumulate(lengths)]
    shots = [(low / 25, high / 25) for low, high in pairwise(bounds)]
    outcome, windows = decode(path, recipe(WindowSettings(seconds=20, cut="shots")))
    spans = [(w.start_seconds, w.end_seconds) for w in windows]
    assert outcome.row == decode(path, recipe(None))[0].row
    assert len(spans) == len(shots)
    assert spans[-1][1] == pytest.approx(shots[-1][1], abs=0.002)
    for found, shot in zip(spans, shots, strict=True):
        assert found[0] - shot[0] == pytest.approx(0.125, abs=0.126)  # a quarter of a second late at most
    for before, after in pairwise(spans):
        assert before[1] == after[0]
    for window, shot in zip(windows, shots, strict=True):
        assert all(shot[0] <= time < shot[1] for time in window.row["timestamps_seconds"])
    mean = float(np.mean([best_overlap(shot, spans) for shot in shots]))
    fixed = [
        float(np.mean([best_overlap(shot, fixed_spans(0, bounds[-1] / 25, seconds, 0.5)) for shot in shots]))
        for seconds in (2, 4, 5, 8, 10)
    ]
    assert mean > 0.9
    assert max(fixed) < 0.7


def test_a_shot_longer_than_a_window_is_cut_and_flashes_are_not(tmp_path: Path) -> None:
    lengths = [300, 10, 300]  # the second is shorter than `shortest`
    path = write_counted(tmp_path / "shots.mp4", frames=sum(lengths), pictures=scenes(lengths))
    _, windows = decode(path, recipe(WindowSettings(seconds=5, cut="shots", shortest=1.0)))
    spans = [(w.start_seconds, w.end_seconds) for w in windows]
    assert spans[:3] == [(0, 5), (5, 10), (10, 12)]
    assert all(high - low >= 1 for low, high in spans)
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert all(high - low <= 5.25 for low, high in spans)


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=60), st.integers(0, 3000))
def test_looks_are_at_most_one_in_each_quarter_of_a_second(gaps: list[int], start: int) -> None:
    times = [gap / 1000 for gap in itertools.accumulate(gaps)]
    found = [times[place] for place in looks(times, start / 1000, times[-1] + 1)]
    inside = [time for time in times if time >= start / 1000]
    assert found[:1] == inside[:1]
    quarters = [int((time - start / 1000) * 4 + 1e-6) for time in found]
    assert len(set(quarters)) == len(quarters)
    assert set(quarters) == {int((time - start / 1000) * 4 + 1e-6) for time in inside}
