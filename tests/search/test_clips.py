"""Clips: real files, copied without encoding, decoded again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from components.errors import DataError
from components.search.clips import save_clip

FPS, GROUP = 10, 10


def write_film(path: Path, codec: str, seconds: int = 6, sound: bool = False, b_frames: int = 2) -> None:
    """Writes a film whose frame ``n`` has the grey ``20 + 3 * n``, with a key frame each second."""
    with av.open(str(path), "w") as container:
        options = {"g": str(GROUP), "keyint_min": str(GROUP), "bf": str(b_frames), "sc_threshold": "0"}
        stream = container.add_stream(codec, rate=FPS, options=options)
        assert isinstance(stream, VideoStream)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        tone = container.add_stream("aac" if path.suffix == ".mp4" else "libopus", rate=48000) if sound else None
        assert tone is None or isinstance(tone, AudioStream)
        for number in range(seconds * FPS):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 + 3 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            for number in range(seconds * 50):
                samples = np.zeros((1, 960 * 2), np.float32)
                sound_frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="stereo")
                sound_frame.sample_rate, sound_frame.pts, sound_frame.time_base = (
                    48000,
                    960 * number,
                    Fraction(1, 48000),
                )
                container.mux(tone.encode(sound_frame))
            container.mux(tone.encode(None))


def greys(path: Path) -> list[int]:
    """The number of each frame of a clip in its film."""
    with av.open(str(path)) as container:
        return [round((float(frame.to_ndarray(format="rgb24").mean()) - 20) / 3) for frame in container.decode(video=0)]


CODECS = {
    ".mp4": "libx264",
    ".mov": "libx264",
    ".mkv": "libx264",
    ".webm": "libvpx-vp9",
    ".avi": "mjpeg",
    ".ts": "libx264",
}


@pytest.mark.parametrize("suffix", list(CODECS))
def test_a_clip_starts_at_the_key_frame_before_its_span_and_plays(tmp_path: Path, suffix: str) -> None:
    film = tmp_path / f"film{suffix}"
    write_film(film, CODECS[suffix], b_frames=0 if suffix in (".avi", ".webm") else 2)
    clip = save_clip(str(film), (2.4, 3.7), tmp_path / "clips", "01-film")
    # Every picture of Motion JPEG is a key frame.
    first = 24 if suffix == ".avi" else 20
    assert clip.start_seconds == pytest.approx(first / FPS, abs=0.001)
    # Frames 20 to 36 begin before 3.7 s. Those that B-frames refer to may follow.
    assert 3.69 <= clip.end_seconds <= 4.11
    shown = greys(clip.path)
    assert shown[: 37 - first] == list(range(first, 37))
    assert len(shown) <= 41 - first
    kept = suffix if suffix in (".mp4", ".mov", ".mkv", ".webm") else ".mkv"
    assert clip.path.name == f"01-film-{clip.start_seconds:.3f}-{clip.end_seconds:.3f}{kept}"
    with av.open(str(clip.path)) as made, av.open(str(film)) as source:
        assert made.streams.video[0].codec_context.name == source.streams.video[0].codec_context.name
    assert [path.name for path in (tmp_path / "clips").iterdir()] == [clip.path.name]


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_sound_goes_with_the_pictures(tmp_path: Path, suffix: str) -> None:
    film = tmp_path / f"film{suffix}"
    write_film(film, CODECS[suffix], sound=True, b_frames=0)
    clip = save_clip(str(film), (3.0, 5.0), tmp_path, "01")
    with av.open(str(clip.path)) as container:
        stream = container.streams.audio[0]
        times = [float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.pts is not None]
    assert min(times) < 0.1
    assert 1.5 < max(times) < 2.1
    assert greys(clip.path)[0] == 30


def test_the_packets_are_those_of_the_film(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    write_film(film, "libx264")
    clip = save_clip(str(film), (1.0, 2.0), tmp_path, "01")

    def packets(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    copied, source = packets(clip.path), packets(film)
    first = source.index(copied[0])
    assert copied == source[first : first + len(copied)]


@pytest.mark.parametrize("span", [(0.0, 6.0), (0.0, 0.05), (5.95, 6.0), (5.0, 999.0)])
def test_spans_at_the_ends_of_a_film(tmp_path: Path, span: tuple[float, float]) -> None:
    film = tmp_path / "film.mp4"
    write_film(film, "libx264")
    clip = save_clip(str(film), span, tmp_path, "01")
    shown = greys(clip.path)
    assert shown[0] == (0 if span[0] == 0 else 50)
    assert set(range(int(span[0] * FPS), min(60, max(1, int(span[1] * FPS))))) <= set(shown)
    assert clip.end_seconds <= 6.01


def test_a_film_that_cannot_be_copied_is_one_sentence(tmp_path: Path) -> None:
    noise, empty = tmp_path / "noise.mp4", tmp_path / "empty.mkv"
    noise.write_bytes(bytes(range(256)) * 40)
    empty.touch()
    cut = tmp_path / "cut.mp4"
    write_film(cut, "libx264")
    cut.write_bytes(cut.read_bytes()[:-2000])
    for path, message in (
        (noise, "not a video"),
        (empty, "zero bytes"),
        (tmp_path / "gone.mp4", "no file under this path"),
        (tmp_path, "a folder, pipe or device"),
        (cut, "not a video"),
    ):
        with pytest.raises(DataError, match=rf"{path.name}: no clip: .*{message}") as caught:
            save_clip(str(path), (0.0, 1.0), tmp_path / "clips", "01")
        assert "\n" not in str(caught.value)
    assert list((tmp_path / "clips").iterdir()) == []


def test_a_long_id_leaves_a_name_that_a_file_system_takes(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    write_film(film, "libx264", seconds=1)
    clip = save_clip(str(film), (0.0, 1.0), tmp_path, "01-" + "ü" * 200)
    assert clip.path.exists()
