"""Spans of films as files of their own, without encoding: packets are copied from the key frame before the span on.

A film can only be cut at key frames, so a clip starts at the last one at or before the span. It ends with the span,
plus the few frames that those before the end refer to. Pictures and sound are copied, subtitles and data are not.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from components.errors import DISK_FAULTS, DataError
from components.ingest import sources
from components.ingest.checks import check_file
from components.ingest.decoders.base import DecodeError
from components.ingest.decoders.packets import CONTAINERS
from components.search.media import why

# Containers that a clip keeps. Matroska takes the streams of all others.
KEPT = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".webm": "webm", ".mkv": "matroska"}
OTHER = ".mkv"

# Characters of an id in a file's name. With rank and times, it stays below the 255 bytes of a file system.
LONGEST_NAME = 60

# What FFmpeg seeks in: microseconds.
SEEK_UNITS = 1_000_000


@dataclass(frozen=True)
class Clip:
    """A saved clip.

    Attributes:
        path: The file.
        start_seconds: Where it starts in its source, at a key frame.
        end_seconds: Where its pictures end in its source.
    """

    path: Path
    start_seconds: float
    end_seconds: float


def save_clip(location: str, span: tuple[float, float], folder: Path, name: str) -> Clip:
    """Saves a span of a film.

    Args:
        location: The path or URI of the film.
        span: Start and end in seconds, counted from the film's first picture.
        folder: Where to write. It is made if it does not exist.
        name: The start of the file's name. The times where the clip really starts and ends follow.

    Raises:
        DataError: The film is missing, cannot be read, or has no picture in this span.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    suffix = PurePosixPath(location).suffix.lower()
    suffix = suffix if suffix in KEPT else OTHER
    aside = folder / f".{os.getpid()}-unfinished{suffix}"
    try:
        with sources.local_file(location) as path:
            check_file(path)
            start, end = _copy(path, span, aside, KEPT[suffix])
        path_of_clip = folder / f"{name[:LONGEST_NAME]}-{start:.3f}-{end:.3f}{suffix}"
        aside.replace(path_of_clip)
    except (DecodeError, sources.FetchError) as failure:
        raise DataError(f"no clip: {why(failure)}", where=location) from None
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DataError(f"no clip: {DISK_FAULTS[error.errno]}", where=folder) from None
        raise DataError(f"no clip: the film cannot be copied ({type(error).__name__})", where=location) from None
    finally:
        aside.unlink(missing_ok=True)
    return Clip(path_of_clip, start, end)


def _copy(path: str, span: tuple[float, float], target: Path, form: str) -> tuple[float, float]:
    """Copies the packets of a span, and returns where they start and end in the source, in seconds."""
    with _opened(path) as (container, video):
        streams = [video, *(stream for stream in container.streams.audio if stream.codec_context is not None)]
        zero = _zero(container, video)
        key = _key_before(container, video, zero + Fraction(span[0]))
        container.seek(_units(video, key), stream=video, backward=True)
        with av.open(str(target), "w", format=form) as output:
            end = _Copy(output, streams, video, key, zero + Fraction(span[1])).run(container)
    if end is None:
        raise DecodeError("empty_segment")
    return float(key - zero), float(end - zero)


class _Copy:
    """Copies packets between two times of a file, so that the first one is at 0.

    Args:
        output: Where they go.
        streams: The streams to copy.
        video: The one of them that says where the clip starts and ends.
        start: The time of the key frame that comes first, in seconds of the file.
        end: The time at which no more picture starts.
    """

    def __init__(
        self,
        output: OutputContainer,
        streams: list[VideoStream | AudioStream],
        video: VideoStream,
        start: Fraction,
        end: Fraction,
    ) -> None:
        self.output = output
        self.copies = {stream.index: output.add_stream_from_template(stream) for stream in streams}
        self.streams = streams
        self.video = video
        self.start = start
        self.end = end

    def run(self, container: InputContainer) -> Fraction | None:
        """The end of the last picture in seconds of the file, None if there is none."""
        last: Fraction | None = None
        began = False
        for packet in container.demux(self.streams):
            if packet.dts is None:
                continue
            base = packet.time_base
            shown = Fraction(packet.pts if packet.pts is not None else packet.dts) * base
            if packet.stream.index == self.video.index:
                if Fraction(packet.dts) * base >= self.end and began:
                    break
                began = began or (packet.is_keyframe and shown == self.start)
                if not began or shown < self.start:
                    continue  # shown before the key frame, and built on one that is not copied
                finish = shown + Fraction(packet.duration or 0) * base
                last = finish if last is None else max(last, finish)
            elif shown < self.start or shown >= self.end:
                continue
            self._write(packet)
        return last

    def _write(self, packet: Packet) -> None:
        shift = int(self.start / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.dts = packet.dts - shift
        packet.stream = self.copies[packet.stream.index]
        self.output.mux(packet)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file and its first stream of pictures.

    Raises:
        DecodeError: unreadable or no_video_stream.
    """
    try:
        container = av.open(
            f"file:{path}", metadata_errors="ignore", options={"format_whitelist": ",".join(CONTAINERS)}
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError("unreadable", type(error).__name__) from None
    with container:
        if not container.streams.video:
            raise DecodeError("no_video_stream")
        yield container, container.streams.video[0]


def _units(stream: VideoStream, seconds: Fraction) -> int:
    assert stream.time_base is not None
    return int(seconds / stream.time_base)


def _zero(container: InputContainer, video: VideoStream) -> Fraction:
    """The time of the first picture. Times of a collection are counted from it."""
    assert video.time_base is not None
    first = [packet.pts for packet in _some(container, video) if packet.pts is not None]
    return min(first, default=video.start_time or 0) * video.time_base


def _some(container: InputContainer, video: VideoStream, most: int = 64) -> Iterator[Packet]:
    """The first packets of the stream. The picture that is shown first is among them."""
    for number, packet in enumerate(container.demux(video)):
        if number == most:
            return
        yield packet


def _key_before(container: InputContainer, video: VideoStream, wanted: Fraction) -> Fraction:
    """The time of the last key frame at or before a time, or of the first one.

    Raises:
        DecodeError: no_frames.
    """
    assert video.time_base is not None
    container.seek(max(_units(video, wanted), video.start_time or 0), stream=video, backward=True)
    found: Fraction | None = None
    for packet in container.demux(video):
        if packet.dts is None:
            continue
        shown = Fraction(packet.pts if packet.pts is not None else packet.dts) * video.time_base
        if packet.is_keyframe and (found is None or shown <= wanted):
            found = shown
        # Packets come in the order of decoding, which no picture after the wanted one precedes.
        if found is not None and packet.dts * video.time_base > wanted:
            break
    if found is None:
        raise DecodeError("no_frames")
    return found
