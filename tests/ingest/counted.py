"""Video files in which each frame shows its number, as 16 black or white squares that survive lossy coding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

WIDTH, HEIGHT, FPS = 160, 96, 25


def picture_of(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Draws the bits of ``number`` in four rows of four, the lowest bit first: ``uint8[height, width, 3]``."""
    bits = np.array([number >> bit & 1 for bit in range(16)]).reshape(4, 4)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return np.repeat((32 + 192 * bits[rows][:, columns, None]).astype(np.uint8), 3, axis=2)


def number_of(picture: NDArray[np.uint8]) -> int:
    """Reads the number that a decoded ``uint8[H, W, 3]`` shows."""
    height, width = picture.shape[0] // 4, picture.shape[1] // 4
    grey = picture[: 4 * height, : 4 * width].reshape(4, height, 4, width, 3)
    # Only the inner half of each square counts, since the edges are blurred.
    inner = grey[:, height // 4 : height - height // 4, :, width // 4 : width - width // 4]
    bits = (inner.mean(axis=(1, 3, 4)) > 128).reshape(-1)
    return sum(int(bit) << place for place, bit in enumerate(bits))


def write_counted(
    path: Path,
    *,
    frames: int = 60,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    width: int = WIDTH,
    height: int = HEIGHT,
    pixels: str = "yuv420p",
    rotation: int | None = None,
    times: Callable[[int], int] | None = None,
    fps: int = FPS,
    every: int = 1,
    format: str | None = None,
    pictures: Iterable[NDArray[np.uint8]] | None = None,
) -> Path:
    """Writes frames 0, 1, 2, ... at a constant rate.

    Args:
        path: Where to write the file.
        frames: How many frames.
        codec: FFmpeg's name of the encoder.
        options: Options of the encoder.
        muxer: Options of the container.
        width, height: Size in pixels.
        pixels: FFmpeg's name of the pixel format.
        rotation: Degrees counter-clockwise by which players should rotate the video.
        times: Maps a frame's number to its presentation time in milliseconds, for a variable frame rate.
        fps: Frames per second.
        every: Of so many frames in a row, all but the first are dropped.
        format: FFmpeg's name of the container, if the file's name does not tell.
        pictures: Pictures to show instead of numbers.
    """
    defaults = {"libx264": {"g": "12", "crf": "12", "preset": "ultrafast"}, "libx265": {"x265-params": "log-level=0"}}
    with av.open(str(path), "w", format=format, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=fps, options={**defaults.get(codec, {}), **(options or {})})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number, picture in enumerate(pictures or (picture_of(n, width, height) for n in range(frames))):
            if number % every:
                continue
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if every > 1:
                frame.pts, frame.time_base = number, Fraction(1, fps)
            if times is not None:
                frame.pts, frame.time_base = times(number), Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def remux(
    source: Path,
    target: Path,
    *,
    shift: int = 0,
    muxer: dict[str, str] | None = None,
    drop: int = 0,
    format: str | None = None,
) -> Path:
    """Copies packets to another file, shown ``shift`` frames earlier, without the first ``drop`` packets."""
    with av.open(str(source)) as reads, av.open(str(target), "w", format=format, options=muxer or {}) as writes:
        stream = reads.streams.video[0]
        copy = writes.add_stream_from_template(stream)
        assert stream.average_rate is not None
        assert stream.time_base is not None
        frame = round(1 / (stream.average_rate * stream.time_base))
        for number, packet in enumerate(reads.demux(stream)):
            if packet.size and number >= drop:
                assert packet.pts is not None
                assert packet.dts is not None
                packet.pts, packet.dts = packet.pts - shift * frame, packet.dts - shift * frame
                packet.stream = copy
                writes.mux(packet)
    return target


def with_noise(source: Path, target: Path, *, share: float = 1.0, skip: int = 24, seed: int = 0) -> Path:
    """Copies an MP4 of H.264 or HEVC with noise in the bodies of its slices, as encryption or a bad disk leaves it.

    Args:
        source, target: The files.
        share: Fraction of the packets, from the first one on, that get noise.
        skip: Bytes of a slice that stay, for its header.
        seed: For the noise.
    """
    numbers = np.random.default_rng(seed)
    with av.open(str(source)) as reads, av.open(str(target), "w") as writes:
        stream = reads.streams.video[0]
        copy = writes.add_stream_from_template(stream)
        packets = [packet for packet in reads.demux(stream) if packet.size]
        for number, packet in enumerate(packets):
            data = bytearray(bytes(packet))
            place = 0
            while number < share * len(packets) and place < len(data):
                length = int.from_bytes(data[place : place + 4], "big")
                kind = data[place + 4] & 31 if stream.codec_context.name == "h264" else data[place + 4] >> 1 & 63
                if kind in ((1, 5) if stream.codec_context.name == "h264" else range(22)):
                    start, end = place + skip, place + 4 + length
                    data[start:end] = numbers.integers(1, 256, max(0, end - start), np.uint8).tobytes()
                place += 4 + length
            noisy = av.Packet(bytes(data))
            noisy.pts, noisy.dts, noisy.duration = packet.pts, packet.dts, packet.duration
            noisy.time_base, noisy.is_keyframe, noisy.stream = packet.time_base, packet.is_keyframe, copy
            writes.mux(noisy)
    return target
