"""All decoders return the same frames for the same numbers, and ``auto`` the right ones where decord does not."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from counted import FPS, number_of, picture_of, remux, write_counted
from video_files import SHARED, write_audio_mp4

from components.ingest.decoders import DECODERS, auto, collector, pyav
from components.ingest.decoders.base import DecodedFrames, DecodeError
from components.ingest.decoders.packets import Packet, PacketTable, open_video, read_packets
from components.ingest.resize import resize_frames

NAMES = ("pyav", "decord", "auto", "torchcodec")
B_FRAMES = {"bf": "3", "preset": "fast", "sc_threshold": "0"}
OPEN_GOP = {"preset": "fast", "x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"}

# Decibels between the frames of two decoders after the resize. Rounding and chroma interpolation differ.
LEAST_PSNR = 45.0


def spread(times: Any) -> list[int]:
    """Picks 31 numbers from the first frame to the last."""
    return sorted({int(index) for index in np.linspace(0, len(times) - 1, 31)})


def decoded(name: str, path: Path) -> DecodedFrames:
    if name in ("decord", "torchcodec") and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return DECODERS.get(name)(str(path), spread)


def psnr(one: DecodedFrames, two: DecodedFrames, short_side: int) -> float:
    """Returns the PSNR in decibels of the frame that differs most."""
    pictures = [resize_frames(found.frames, short_side).astype(np.float64) for found in (one, two)]
    worst = np.square(pictures[0] - pictures[1]).mean(axis=(1, 2, 3)).max()
    return float(10 * np.log10(255**2 / max(worst, 1e-9)))


def why_not_plain(path: Path) -> str | None:
    with open_video(str(path)) as (container, stream):
        return auto.why_not_plain(read_packets(container, stream))


PLAIN: dict[str, Callable[[Path], Path]] = {
    "constant.mp4": lambda path: write_counted(path),
    "constant.mkv": lambda path: write_counted(path),
    "b-frames.mp4": lambda path: write_counted(path, options=B_FRAMES),
    "b-frames.mkv": lambda path: write_counted(path, options=B_FRAMES),
    "variable.mp4": lambda path: write_counted(path, options=B_FRAMES, times=lambda n: 60 * n + 17 * (n % 2)),
    "variable.mkv": lambda path: write_counted(path, options=B_FRAMES, times=lambda n: 60 * n + 17 * (n % 2)),
    "vp9.webm": lambda path: write_counted(path, codec="libvpx-vp9", options=VP9),
    "mpeg4.mp4": lambda path: write_counted(path, codec="mpeg4", options={"b": "2M"}),
    "hevc.mp4": lambda path: write_counted(path, codec="libx265", frames=30),
    "turned-90.mp4": lambda path: write_counted(path, rotation=90),
    "turned-180.mp4": lambda path: write_counted(path, rotation=180),
    "turned-270.mp4": lambda path: write_counted(path, rotation=-90),
    "odd.mp4": lambda path: write_counted(path, width=161, height=121, pixels="yuv444p"),
    "odd.webm": lambda path: write_counted(path, codec="libvpx-vp9", options=VP9, width=161, height=121),
    "late.mp4": lambda path: remux(
        write_counted(path.with_stem("source"), options=B_FRAMES), path, shift=-40, muxer={"movflags": "+faststart"}
    ),
    "fragments.mp4": lambda path: write_counted(
        path, options=B_FRAMES, muxer={"movflags": "frag_keyframe+empty_moov+delay_moov"}
    ),
}


# These are plain too, but PyAV skips their frames that no other needs.
WITH_B_FRAMES = {name for name in PLAIN if name.split(".")[0] in ("b-frames", "variable", "late", "fragments")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, DecodedFrames]]:
    """Returns a plain file by its name, and the frames that PyAV decodes."""
    folder = tmp_path_factory.mktemp("plain")
    made: dict[str, tuple[Path, DecodedFrames]] = {}

    def get(name: str) -> tuple[Path, DecodedFrames]:
        if name not in made:
            path = PLAIN[name](folder / name)
            made[name] = path, pyav.decode(str(path), spread)
        return made[name]

    return get


@pytest.mark.parametrize("decoder", NAMES)
@pytest.mark.parametrize("name", PLAIN)
def test_decoders_agree_on_plain_files(
    plain: Callable[[str], tuple[Path, DecodedFrames]], name: str, decoder: str
) -> None:
    path, reference = plain(name)
    assert why_not_plain(path) is None
    found = decoded(decoder, path)
    turns = round(float(path.stem.partition("-")[2]) / 90) if path.stem.startswith("turned") else 0
    assert [number_of(np.rot90(frame, -turns)) for frame in found.frames] == list(found.indices)
    assert found.indices == reference.indices
    assert found.timestamps_seconds == pytest.approx(reference.timestamps_seconds, abs=1e-4)
    assert found.timestamps_seconds[0] == 0.0
    assert found.source_frames == reference.source_frames
    assert found.frames[0].shape == reference.frames[0].shape
    assert psnr(found, reference, 64) >= LEAST_PSNR
    if decoder == "auto":
        assert found.decoder.startswith("decord" if auto.HAS_DECORD and name not in WITH_B_FRAMES else "pyav")
    else:
        assert found.decoder.startswith(decoder)


# Files that decord reads wrongly, or not at all: how to make them, their fault, and the number of their first frame.
NOT_PLAIN: dict[str, tuple[Callable[[Path], Path], str, int]] = {
    "hidden.mp4": (
        lambda path: remux(
            write_counted(path.with_stem("source"), options=B_FRAMES),
            path,
            shift=17,
            muxer={"avoid_negative_ts": "disabled", "use_editlist": "1"},
        ),
        "hidden packets",
        17,
    ),
    "b-frames.avi": (lambda path: write_counted(path, options=B_FRAMES), "container", 0),
    "mpeg4.avi": (lambda path: write_counted(path, codec="mpeg4", options={"bf": "2", "b": "2M"}), "container", 0),
    "stream.ts": (lambda path: write_counted(path, options=B_FRAMES), "container", 0),
    "begun-late.ts": (
        lambda path: remux(write_counted(path.with_stem("source"), options=B_FRAMES), path, drop=5),
        "container",
        12,
    ),
    "program.mpg": (
        lambda path: write_counted(path, codec="mpeg2video", options={"b": "3M", "bf": "2"}),
        "container",
        0,
    ),
    "windows.wmv": (lambda path: write_counted(path, codec="wmv2", options={"b": "2M"}), "container", 0),
    "flash.flv": (lambda path: write_counted(path, options=B_FRAMES), "container", 0),
    "bare.mp4": (lambda path: write_counted(path, options=B_FRAMES, format="h264"), "container", 0),
    "open.mp4": (lambda path: write_counted(path, options=OPEN_GOP), "open group of pictures", 0),
    "open.mkv": (lambda path: write_counted(path, options=OPEN_GOP), "open group of pictures", 0),
    "av1.mp4": (lambda path: write_counted(path, codec="libsvtav1", options={"preset": "12"}), "codec", 0),
    "hidden-reference.webm": (
        lambda path: write_counted(
            path, codec="libvpx", options={"cpu-used": "4", "b": "1M", "auto-alt-ref": "1", "lag-in-frames": "16"}
        ),
        "codec",
        0,
    ),
    "negative.mkv": (
        lambda path: remux(
            write_counted(path.with_name("source.mp4"), options=B_FRAMES),
            path,
            shift=5,
            muxer={"avoid_negative_ts": "disabled"},
        ),
        "times missing or doubled",
        0,
    ),
    "close-keys.mp4": (
        lambda path: write_counted(
            path,
            options={"bf": "3", "preset": "fast", "g": "12", "forced-idr": "1"},
            muxer={"movflags": "frag_keyframe+empty_moov"},
        ),
        "key frames too close",
        0,
    ),
    "deep.mp4": (lambda path: write_counted(path, codec="libx265", frames=60, pixels="yuv420p10le"), "pixel format", 0),
    "narrow.mp4": (lambda path: write_counted(path, width=48), "narrow", 0),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_auto_gives_the_frame_that_the_number_says(tmp_path: Path, name: str) -> None:
    make, why, first = NOT_PLAIN[name]
    path = make(tmp_path / name)
    assert why_not_plain(path) == why
    found = decoded("auto", path)
    assert [number_of(frame) for frame in found.frames] == [first + index for index in found.indices]
    assert found.timestamps_seconds == pytest.approx([index / FPS for index in found.indices], abs=2e-3)
    assert found.source_frames == 60 - first
    assert found.decoder == pyav.VERSION
    if importlib.util.find_spec("torchcodec") is not None:
        with contextlib.suppress(DecodeError):  # it may refuse, but never return another frame
            other = decoded("torchcodec", path)
            assert [number_of(frame) for frame in other.frames] == [first + index for index in other.indices]


def test_what_else_is_not_plain() -> None:
    def table(*packets: tuple[int | None, int | None, bool], streams: int = 1) -> PacketTable:
        made = [Packet(pts, dts, 1, key, False) for pts, dts, key in packets]
        return PacketTable("matroska,webm", "h264", "yuv420p", 320, 240, streams, Fraction(1, 25), Fraction(25), made)

    assert auto.why_not_plain(table((0, 0, True), (1, 1, False))) is None
    assert auto.why_not_plain(table((0, 0, True), (1, 1, False), streams=2)) == "several video streams"
    assert auto.why_not_plain(table((-1, -1, True), (1, 1, False))) == "negative times"
    assert auto.why_not_plain(table((0, 0, False), (1, 1, True))) == "first packet is no key frame"
    assert auto.why_not_plain(table((0, 0, True), (0, 1, False))) == "times missing or doubled"
    assert auto.why_not_plain(table((0, 0, True), (None, 1, False))) == "times missing or doubled"


def test_large_and_long_plain_files_go_to_pyav(tmp_path: Path) -> None:
    for path in (
        write_counted(tmp_path / "large.mp4", frames=5, width=1280, height=720),
        write_counted(tmp_path / "long.mp4", frames=auto.MAX_FRAMES + 1, width=96),
    ):
        assert why_not_plain(path) is None
        assert decoded("auto", path).decoder == pyav.VERSION


def test_a_plain_file_that_decord_refuses_falls_back_to_pyav(tmp_path: Path) -> None:
    path = write_counted(tmp_path / "cut.mp4", muxer={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    assert why_not_plain(path) is None
    with pytest.raises(DecodeError, match="unreadable"):
        decoded("decord", path)
    found = decoded("auto", path)
    assert found.decoder == pyav.VERSION
    assert [number_of(frame) for frame in found.frames] == list(found.indices)


def test_only_a_decoder_that_finds_nothing_is_fallen_back_from() -> None:
    def failing(error: Exception) -> Callable[[], DecodedFrames]:
        def fail() -> DecodedFrames:
            raise error

        return fail

    result = DecodedFrames([], [], [], 0, 0.0, 0.0, "second")
    fallible: tuple[Exception, ...] = (DecodeError("unreadable"), DecodeError("decode_error"), ZeroDivisionError())
    final: tuple[Exception, ...] = (DecodeError("empty_segment"), DecodeError("truncated"), MemoryError())
    for error in fallible:
        assert auto._first_of(failing(error), lambda: result) is result
        with pytest.raises(type(error)) as caught:
            auto._first_of(failing(error), failing(DecodeError("no_frames")))
        assert caught.value is error
    for error in final:
        with pytest.raises(type(error)) as caught:
            auto._first_of(failing(error), lambda: result)
        assert caught.value is error


def test_without_decord_everything_goes_to_pyav(plain: Callable[[str], tuple[Path, DecodedFrames]]) -> None:
    code = (
        "import sys; sys.modules['decord'] = None\n"
        "from components.ingest.decoders import auto\n"
        "print(auto.decode(sys.argv[1], lambda times: [0, 5]).decoder)"
    )
    command = [sys.executable, "-c", code, str(plain("constant.mp4")[0])]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == pyav.VERSION


@pytest.mark.parametrize("decoder", NAMES)
def test_small_squares_for_a_first_look(plain: Callable[[str], tuple[Path, DecodedFrames]], decoder: str) -> None:
    path, _ = plain("constant.mp4")
    decoded(decoder, path)
    found = DECODERS.get(decoder)(str(path), spread, 64)
    assert {frame.shape for frame in found.frames} == {(64, 64, 3)}
    assert [number_of(frame) for frame in found.frames] == list(found.indices)


@pytest.fixture
def decoded_times(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Collects the presentation times of the frames that PyAV decodes."""
    times: list[int | None] = []
    every = collector.Collector.frames

    def counting(self: Any, *args: Any) -> Any:
        for frame in every(self, *args):
            times.append(frame.pts)
            yield frame

    monkeypatch.setattr(collector.Collector, "frames", counting)
    return times


def test_only_the_groups_of_wanted_frames_are_decoded(tmp_path: Path, decoded_times: list[int | None]) -> None:
    path = write_counted(tmp_path / "long.mp4", frames=240, options={"bf": "0", "sc_threshold": "0", "g": "24"})
    found = pyav.decode(str(path), lambda times: [25, 27, 200])
    assert [number_of(frame) for frame in found.frames] == [25, 27, 200]
    assert len(decoded_times) == (27 - 24 + 1) + (200 - 192 + 1)


MPEG = {"bf": "2", "b": "3M", "g": "24", "sc_threshold": "1000000000"}
X264 = "b-adapt=0:scenecut=0:keyint=24"
# Files with frames that no other frame needs: codec, and options of the encoder.
WITH_NEEDLESS_FRAMES: dict[str, tuple[str, dict[str, str]]] = {
    "plain.mp4": ("libx264", {"preset": "fast", "x264-params": f"{X264}:bframes=3"}),
    "pyramid.mkv": ("libx264", {"preset": "fast", "x264-params": f"{X264}:bframes=7:b-pyramid=normal:ref=4"}),
    "temporal.mp4": ("libx264", {"preset": "fast", "x264-params": f"{X264}:bframes=3:direct=temporal"}),
    "interlaced.mp4": ("libx264", {"preset": "fast", "x264-params": f"{X264}:bframes=3:tff=1"}),
    "open.mp4": ("libx264", {"preset": "fast", "x264-params": f"{X264}:bframes=3:open-gop=1"}),
    "stream.ts": ("libx264", {"preset": "fast", "x264-params": f"{X264}:bframes=3"}),
    "mpeg4.mp4": ("mpeg4", MPEG),
    "mpeg1.mkv": ("mpeg1video", MPEG),
    "program.mpg": ("mpeg2video", MPEG),
}


@pytest.mark.parametrize("name", WITH_NEEDLESS_FRAMES)
def test_frames_that_no_other_needs_are_left_out_without_a_trace(
    tmp_path: Path, decoded_times: list[int | None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    codec, options = WITH_NEEDLESS_FRAMES[name]
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (96, 400, 3)).astype(np.uint8)
    moving = [np.ascontiguousarray(scene[:, 3 * n : 3 * n + 160]) for n in range(72)]
    path = str(write_counted(tmp_path / name, codec=codec, options=options, pictures=moving))
    with monkeypatch.context() as without:
        without.setattr(collector, "SKIPPING_CODECS", ())
        every = pyav.decode(path, lambda times: list(range(len(times))))
        decoded_times.clear()
        pyav.decode(path, lambda times: [0, 22])
        most = len(decoded_times)
    decoded_times.clear()
    pyav.decode(path, lambda times: [0, 22])
    assert len(decoded_times) <= 0.75 * most
    for count in (1, 2, 5, 12, 30):
        wanted = sorted(rng.choice(72, count, replace=False).tolist())
        found = pyav.decode(path, lambda times, wanted=wanted: wanted)  # type: ignore[misc]
        assert found.indices == wanted
        assert found.corrupt_frames == 0
        assert all(np.array_equal(one, every.frames[index]) for one, index in zip(found.frames, wanted, strict=True))


def test_frames_of_several_sizes_in_one_file(tmp_path: Path) -> None:
    small = write_counted(tmp_path / "small.h264", frames=12)
    large = write_counted(tmp_path / "large.h264", frames=12, width=320, height=192)
    mixed = tmp_path / "mixed.mp4"
    mixed.write_bytes(small.read_bytes() + large.read_bytes())
    found = decoded("auto", mixed)
    assert {frame.shape for frame in found.frames} == {(96, 160, 3), (192, 320, 3)}
    assert [number_of(frame) for frame in resize_frames(found.frames, 96)] == 2 * list(range(12))


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    write_audio_mp4(tmp_path / "audio.mp4")
    with av.open(str(tmp_path / "audio.mp4")) as reads, av.open(str(tmp_path / "cover.mp4"), "w") as writes:
        sound = writes.add_stream_from_template(reads.streams.audio[0])
        cover = writes.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 160, 96, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        writes.mux(cover.encode(av.VideoFrame.from_ndarray(picture_of(3), format="rgb24")))
        writes.mux(cover.encode(None))
        for packet in reads.demux(reads.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = sound
                writes.mux(packet)
    with av.open(str(tmp_path / "cover.mp4")) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(DecodeError, match="no_video_stream"):
        decoded("auto", tmp_path / "cover.mp4")


@pytest.mark.skipif(not (SHARED / "clips").is_dir(), reason="the real clips are missing")
@pytest.mark.parametrize("decoder", NAMES)
def test_decoders_agree_on_real_clips(decoder: str) -> None:
    clips = sorted((SHARED / "clips").glob("*.mp4"))
    assert len(clips) == 5
    for clip in clips:
        found, reference = decoded(decoder, clip), decoded("pyav", clip)
        assert found.indices == reference.indices
        assert found.timestamps_seconds == pytest.approx(reference.timestamps_seconds, abs=1e-4)
        assert psnr(found, reference, 224) >= LEAST_PSNR
