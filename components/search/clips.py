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
from components.ingest.decoders.packets import open_listed
from components.search.media import why

# Containers that a clip keeps. Matroska takes the streams of all others.
KEPT = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".webm": "webm", ".mkv": "matroska"}
OTHER = ".mkv"

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Characters of an id in a file's name. With rank and times, it stays below the 255 bytes of a file system.
LONGEST_NAME = 60

# Times of pictures are rounded to 0.1 ms. A span that starts with a key frame should not start with the one before.
ROUNDING = Fraction(1, 1000)

# Seconds before the wanted time from which a key frame is looked for, and then the start of the film.
STEPS_BACK = (0, 2, 10, 60, 10**9)


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
        number = getattr(error, "errno", None)
        if number in FULL:
            raise DataError(f"no clip: {DISK_FAULTS[number]}", where=folder) from None
        raise DataError(f"no clip: the film cannot be copied ({type(error).__name__})", where=location) from None
    finally:
        aside.unlink(missing_ok=True)
    return Clip(path_of_clip, start, end)


def _copy(path: str, span: tuple[float, float], target: Path, form: str) -> tuple[float, float]:
    """Copies the packets of a span, and returns where they start and end in the source, in seconds."""
    with _opened(path) as (container, video):
        sounds = [stream for stream in container.streams.audio if stream.codec_context is not None]
        streams: list[VideoStream | AudioStream] = [video, *sounds]
        zero = _zero(container, video)
        place, key = _key_before(container, video, zero + Fraction(span[0]) + ROUNDING)
        container.seek(place, stream=video, backward=True)
        with av.open(str(target), "w", format=form) as output:
            end = _Copy(output, streams, video, key, zero + Fraction(span[1]) - ROUNDING).run(container)
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
        self._held: list[Packet] = []

    def run(self, container: InputContainer) -> Fraction | None:
        """The end of the last picture in seconds of the file, None if there is none."""
        last: Fraction | None = None
        for packet in container.demux(self.streams):
            if packet.pts is None and packet.dts is None:
                continue
            shown = _shown(packet)
            if packet.stream.index == self.video.index:
                if last is None and not (packet.is_keyframe and shown == self.start):
                    continue
                if packet.dts is not None and packet.dts * packet.time_base >= self.end and last is not None:
                    break
                if shown < self.start:
                    continue  # after the key frame, but built on pictures before it
                finish = shown + Fraction(packet.duration or 0) * packet.time_base
                last = finish if last is None else max(last, finish)
            elif shown < self.start or shown >= self.end:
                continue
            self._hold(packet)
        self._release(None)
        return last

    def _hold(self, packet: Packet) -> None:
        """Writes a packet. After a seek, the first ones have no time of decoding and wait for one that has."""
        self._held.append(packet)
        if packet.dts is not None and packet.stream.index == self.video.index:
            self._release(packet.dts)

    def _release(self, known: int | None) -> None:
        """Writes what waits. Pictures without a time of decoding get one, each a duration before the next.

        Args:
            known: The time of decoding of the last picture, if it has one.
        """
        pictures = [packet for packet in self._held if packet.stream.index == self.video.index]
        step = next((packet.duration for packet in pictures if packet.duration), 1)
        begin = _shown(pictures[0]) / pictures[0].time_base if pictures else Fraction(0)
        for number, packet in enumerate(pictures):
            if packet.dts is None:
                before = len(pictures) - 1 - number
                packet.dts = int(begin) + number * step if known is None else known - before * step
        for packet in self._held:
            shift = int(self.start / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
            packet.stream = self.copies[packet.stream.index]
            self.output.mux(packet)
        self._held.clear()


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file and its first stream of pictures.

    Raises:
        DecodeError: unreadable or no_video_stream.
    """
    try:
        container = open_listed(path)
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


def _key_before(container: InputContainer, video: VideoStream, wanted: Fraction) -> tuple[int, Fraction]:
    """The last key frame at or before a time, or the first one of the file.

    Some containers have no list of key frames, and a seek lands after the one that is wanted. So it goes back further.

    Returns:
        Where to seek to, in units of the stream, and the time of the key frame in seconds of the file.

    Raises:
        DecodeError: no_frames.
    """
    first = video.start_time or 0
    for back in STEPS_BACK:
        place = max(_units(video, wanted - back), first)
        container.seek(place, stream=video, backward=True)
        found = _last_key(container, video, wanted)
        if found is not None and (found <= wanted or place == first):
            return place, found
    raise DecodeError("no_frames")


def _last_key(container: InputContainer, video: VideoStream, wanted: Fraction) -> Fraction | None:
    """The time of the last key frame from here to a time, else of the next one, else None."""
    assert video.time_base is not None
    found: Fraction | None = None
    for packet in container.demux(video):
        if packet.pts is None and packet.dts is None:
            continue
        shown = _shown(packet)
        if packet.is_keyframe and (found is None or shown <= wanted):
            found = shown
        # Packets come in the order of decoding. No picture after such a packet is shown before it.
        if found is not None and packet.dts is not None and packet.dts * video.time_base > wanted:
            break
    return found


def _shown(packet: Packet) -> Fraction:
    """When a packet is shown, in seconds of the file."""
    time = packet.pts if packet.pts is not None else packet.dts
    return Fraction(time or 0) * packet.time_base
