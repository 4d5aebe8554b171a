"""Frames, their order, orientation and times are those of the command ``ffmpeg``, on files of each odd kind."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from counted import number_of, picture_of, write_counted
from numpy.typing import NDArray

from components.ingest.decoders import DECODERS
from components.ingest.decoders.base import DecodedFrames, DecodeError

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None,
    reason="the commands ffmpeg and ffprobe are missing (Debian: apt-get install ffmpeg)",
)

LEAST_PSNR = 35.0  # decibels: the command converts to RGB with other filters


def every(name: str, path: Path) -> DecodedFrames:
    """Decodes all frames."""
    return DECODERS.get(name)(str(path), lambda times: list(range(len(times))))


def ffmpeg_frames(path: Path, width: int, height: int) -> NDArray[np.uint8]:
    """Returns the frames that the command decodes, as ``uint8[T, height, width, 3]``."""
    output = ("-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), *output]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def ffmpeg_times(path: Path) -> list[float]:
    """Returns the seconds at which the command shows frames, from the first one on."""
    entry = ("-select_streams", "v:0", "-show_entries", "frame=best_effort_timestamp_time", "-of", "csv=p=0")
    done = subprocess.run(["ffprobe", "-v", "error", *entry, str(path)], capture_output=True, text=True, check=True)
    times = [float(line.strip(",")) for line in done.stdout.split()]
    return [time - times[0] for time in times]


def check_pictures(found: DecodedFrames, path: Path) -> None:
    height, width = found.frames[0].shape[:2]
    expected = ffmpeg_frames(path, width, height)
    assert len(expected) == len(found.frames)
    for ours, theirs in zip(found.frames, expected, strict=True):
        error = np.square(ours.astype(float) - theirs).mean()
        assert 10 * np.log10(255**2 / max(error, 1e-9)) >= LEAST_PSNR


# Two of three frames are dropped.
DROPPED: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("mpeg4", {"b": "2M"}),
    "b-frames": ("mpeg4", {"b": "2M", "bf": "2"}),
    "h264": ("libx264", {"preset": "fast", "bf": "2"}),
}


@pytest.mark.parametrize("name", DROPPED)
def test_dropped_frames_of_avi_take_their_time(tmp_path: Path, name: str) -> None:
    codec, options = DROPPED[name]
    path = write_counted(tmp_path / "drop.avi", frames=90, codec=codec, options=options, fps=30, every=3)
    found = every("auto", path)
    assert [number_of(frame) for frame in found.frames] == list(range(0, 90, 3))
    assert found.timestamps_seconds == pytest.approx([number / 30 for number in range(0, 90, 3)], abs=1e-4)
    assert (found.source_frames, found.fps, found.duration_seconds) == (30, 10.0, 3.0)
    part = DECODERS.get("auto")(str(path), lambda times: [k for k, time in enumerate(times) if 1 <= time < 2])
    assert [number_of(frame) for frame in part.frames] == list(range(30, 60, 3))


@needs_ffmpeg
def test_times_of_avi_are_those_of_ffmpeg(tmp_path: Path) -> None:
    path = write_counted(tmp_path / "drop.avi", frames=90, codec="mpeg4", options={"b": "2M"}, fps=30, every=3)
    found = every("auto", path)
    assert found.timestamps_seconds == pytest.approx(ffmpeg_times(path), abs=2e-3)
    check_pictures(found, path)


def test_avi_without_gaps_has_the_times_of_its_rate(tmp_path: Path) -> None:
    found = every("auto", write_counted(tmp_path / "plain.avi", codec="mpeg4", options={"b": "2M", "bf": "2"}))
    assert found.timestamps_seconds == [round(number / 25, 4) for number in range(60)]
    assert found.duration_seconds == 2.4


# The codec, FFmpeg's name of the format, and the ending.
STREAMS = [("libx264", "h264", "h264"), ("libx265", "hevc", "hevc"), ("mpeg2video", "mpeg2video", "m2v"),
           ("mpeg1video", "mpeg1video", "mpg")]  # fmt: skip


@pytest.mark.parametrize(("codec", "format", "ending"), STREAMS)
@pytest.mark.parametrize("fps", [15, 30, 60])
def test_elementary_streams_have_the_rate_of_their_header(
    tmp_path: Path, codec: str, format: str, ending: str, fps: int
) -> None:
    if fps == 15 and codec.startswith("mpeg"):
        pytest.skip("MPEG-1 and MPEG-2 do not have this rate")
    options = {"b": "2M"} if codec.startswith("mpeg") else {}
    path = tmp_path / f"raw.{ending}"
    found = every("auto", write_counted(path, frames=fps, codec=codec, options=options, fps=fps, format=format))
    assert (found.fps, found.duration_seconds, found.source_frames) == (float(fps), 1.0, fps)
    assert [number_of(frame) for frame in found.frames] == list(range(fps))


OGG_TABLE = [0] * 256
for index in range(256):
    rest = index << 24
    for _ in range(8):
        rest = (rest << 1 ^ 0x04C11DB7 if rest >> 31 else rest << 1) & 0xFFFFFFFF
    OGG_TABLE[index] = rest


def write_ogg(path: Path, repeated: tuple[int, ...]) -> Path:
    """Writes 20 frames of Theora, 10 per second. The packets of some have no bytes, which means "as before"."""
    whole = path.with_stem("whole")
    pictures = b"".join(picture_of(number).tobytes() for number in range(20))
    source = [
        "ffmpeg",
        "-v",
        "error",
        "-y",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        "160x96",
        "-r",
        "10",
        "-i",
        "-",
    ]
    coded = ["-pix_fmt", "yuv420p", "-c:v", "libtheora", "-q:v", "8", "-g", "64"]
    subprocess.run([*source, *coded, str(whole)], input=pictures, check=True)
    content = whole.read_bytes()
    packets, part, place = [], b"", 0
    while place < len(content):
        lengths = content[place + 27 : place + 27 + content[place + 26]]
        place += 27 + len(lengths)
        for size in lengths:
            part, place = part + content[place : place + size], place + size
            if size < 255:
                packets.append(part)
                part = b""
    pages = []
    for number, packet in enumerate(packets):
        frame = number - 3  # three headers come first
        body = b"" if frame in repeated else packet
        lacing = bytes([255] * (len(body) // 255) + [len(body) % 255])
        kind = 2 if number == 0 else 4 if number == len(packets) - 1 else 0
        granule = 0 if frame < 0 else (1 << 6) + frame
        page = struct.pack("<4sBBqIIIB", b"OggS", 0, kind, granule, 1, number, 0, len(lacing)) + lacing + body
        check = 0
        for byte in page:
            check = (check << 8 & 0xFFFFFFFF) ^ OGG_TABLE[check >> 24 ^ byte]
        pages.append(page[:22] + struct.pack("<I", check) + page[26:])
    path.write_bytes(b"".join(pages))
    return path


@needs_ffmpeg
@pytest.mark.parametrize("repeated", [(5, 6, 7), (19,), tuple(range(2, 20, 2))])
def test_packets_without_bytes_keep_their_time(tmp_path: Path, repeated: tuple[int, ...]) -> None:
    path = write_ogg(tmp_path / "still.ogv", repeated)
    shown = [number for number in range(20) if number not in repeated]
    found = every("auto", path)
    assert found.timestamps_seconds == pytest.approx([number / 10 for number in shown], abs=1e-3)
    assert [number_of(found.frames[place]) for place in (0, 1)] == [0, 1]
    assert found.corrupt_frames == 0
    check_pictures(found, path)


def turn_left(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.rot90(picture)


ONE = 1 << 16
# The linear part of the display matrix, and what it does to the picture.
MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]] = {
    "upright": ((ONE, 0, 0, ONE), lambda picture: picture),
    "half": ((-ONE, 0, 0, -ONE), lambda picture: picture[::-1, ::-1]),
    "left": ((0, -ONE, ONE, 0), turn_left),
    "right": ((0, ONE, -ONE, 0), lambda picture: np.rot90(picture, 3)),
    "mirrored": ((-ONE, 0, 0, ONE), lambda picture: picture[:, ::-1]),
    "upside down": ((ONE, 0, 0, -ONE), lambda picture: picture[::-1]),
    "transposed": ((0, ONE, ONE, 0), lambda picture: picture.transpose(1, 0, 2)),
    "transposed and half": ((0, -ONE, -ONE, 0), lambda picture: picture[::-1, ::-1].transpose(1, 0, 2)),
    "nothing": ((0, 0, 0, 0), lambda picture: picture),
    "flattened": ((ONE, 0, ONE, 0), lambda picture: picture),
}


def write_with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Writes an MP4 of 12 frames, without B-frames, with a display matrix in its track's header."""
    content = bytearray(write_counted(path, frames=12).read_bytes())
    place = content.index(b"tkhd") + 44
    a, b, c, d = matrix
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_turned_and_mirrored_as_the_matrix_says(tmp_path: Path, name: str, decoder: str) -> None:
    matrix, shown = MATRICES[name]
    path = write_with_matrix(tmp_path / "matrix.mp4", matrix)
    turned = name in ("upright", "half", "left", "right")
    if decoder == "decord" and not turned:
        with pytest.raises(DecodeError, match="unsupported"):
            every(decoder, path)
        return
    found = every(decoder, path)
    expected = shown(picture_of(11))
    assert found.frames[11].shape == expected.shape
    assert np.abs(found.frames[11].astype(int) - expected).mean() < 4
    if decoder == "auto":
        assert found.decoder.startswith("decord" if turned else "pyav")


@needs_ffmpeg
@pytest.mark.parametrize("name", ["mirrored", "upside down", "transposed", "nothing"])
def test_mirrored_frames_are_those_of_ffmpeg(tmp_path: Path, name: str) -> None:
    path = write_with_matrix(tmp_path / "matrix.mp4", MATRICES[name][0])
    check_pictures(every("auto", path), path)
