"""The packets of a video file, read without decoding: which frames are shown, when, and where decoding can begin.

The number of frames is the number of packets that are shown, never the number in the header. Cuts without re-encoding
keep hidden frames before the cut, and headers of damaged files promise frames that are missing.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from components.ingest.decoders.base import Choose, DecodedFrames, DecodeError, FrameTimes
from components.ingest.decoders.stated import stated_bytes

MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
# These store no presentation times. Those of their packets are FFmpeg's guesses.
ELEMENTARY = ("mpegvideo", "h264", "hevc", "m4v", "obu")
TIMELESS = ("avi", *ELEMENTARY)
# Containers of videos. Playlists and lists of files are left out, since they would open other files.
CONTAINERS = (MOV, MATROSKA, *TIMELESS, "mpegts", "mpeg", "asf", "flv", "ogg", "mxf", "rm", "nut", "dv", "gif", "ivf")

# A file with less than this fraction of the frames that its index lists, or of its stated bytes, is truncated.
MIN_FRACTION = 0.9


class Packet(NamedTuple):
    """One coded frame. Times are in units of the stream's time base, or None if the file has none."""

    pts: int | None
    dts: int | None
    duration: int
    key: bool
    hidden: bool


@dataclass(frozen=True)
class Timeline:
    """The shown frames of a file, in the order in which they are shown.

    Args:
        pts: Presentation times in units of the time base. None if they are not reliable.
        times_seconds: When each frame is shown, ascending from 0.
        duration_seconds: Time from the first frame's start to the last frame's end.
    """

    pts: Sequence[int] | None
    times_seconds: Sequence[float]
    duration_seconds: float

    def chosen(self, choose: Choose) -> list[int]:
        """Returns the numbers of the wanted frames.

        Raises:
            DecodeError: empty_segment.
        """
        indices = choose(FrameTimes(self.times_seconds, self.duration_seconds))
        if not indices:
            raise DecodeError("empty_segment")
        return indices

    def decoded(
        self,
        frames: Sequence[NDArray[np.uint8]],
        indices: list[int],
        decoder: str,
        corrupt: int | None = None,
        damaged: int = 0,
    ) -> DecodedFrames:
        """Returns the answer of a decoder that found ``frames`` at ``indices`` of this timeline."""
        total = len(self.times_seconds)
        return DecodedFrames(
            frames=frames,
            indices=indices,
            timestamps_seconds=[self.times_seconds[index] for index in indices],
            source_frames=total,
            fps=round(total / self.duration_seconds, 6) if self.duration_seconds else 0.0,
            duration_seconds=self.duration_seconds,
            decoder=decoder,
            corrupt_frames=corrupt,
            damaged_frames=damaged,
        )


@dataclass(frozen=True)
class PacketTable:
    """Every packet of a file's video stream, in the order of the file, which is the order of decoding.

    Args:
        container: FFmpeg's name of the container format.
        codec: FFmpeg's name of the codec.
        pixels: FFmpeg's name of the pixel format. None if the header does not tell.
        width, height: Size in pixels, before any rotation.
        video_streams: Number of video streams, without still pictures.
        time_base: Seconds per unit of the packets' times.
        rate: Mean frame rate that the container states, or the codec if there is no container. None without either.
        packets: At least one.
    """

    container: str
    codec: str
    pixels: str | None
    width: int
    height: int
    video_streams: int
    time_base: Fraction
    rate: Fraction | None
    packets: Sequence[Packet]

    @functools.cached_property
    def sound(self) -> bool:
        """Whether every shown packet has a presentation time, and no two have the same."""
        if self.container in TIMELESS:
            return False
        shown = [packet.pts for packet in self.packets if not packet.hidden]
        return None not in shown and len(set(shown)) == len(shown)

    @functools.cached_property
    def reordered(self) -> bool:
        """Whether some frames are decoded after frames that are shown later, as B-frames are."""
        times = [packet.pts for packet in self.packets if packet.pts is not None]
        return any(late > early for late, early in pairwise(times))

    @functools.cached_property
    def timeline(self) -> Timeline:
        """The shown frames, as far as packets tell.

        Raises:
            DecodeError: no_frames, or unreadable if the file has neither times nor a frame rate.
        """
        shown = [packet for packet in self.packets if not packet.hidden]
        if not self.sound:
            return self.even(len(shown))
        durations = {packet.pts: packet.duration for packet in shown if packet.pts is not None}
        return self.timed(sorted(durations), durations)

    @functools.cached_property
    def slots(self) -> list[int] | None:
        """When the shown frames of an AVI file with dropped frames are shown, ascending, in units of the time base.

        AVI has no times. Every chunk lasts one frame, and a chunk without bytes stands for a dropped frame: the one
        before is shown longer. FFmpeg leaves such chunks out and counts them in the decoding time. Frames are shown in
        another order than they are decoded in, but at the same times.

        Returns:
            None without gaps, and in all other containers.
        """
        slots = [packet.dts for packet in self.packets if not packet.hidden and packet.dts is not None]
        if self.container != "avi" or len(slots) != sum(not packet.hidden for packet in self.packets):
            return None
        gaps = {after - before for before, after in pairwise(slots)}
        return slots if gaps and min(gaps) > 0 and gaps != {1} else None

    def timed(self, pts: Sequence[int], durations: dict[int, int]) -> Timeline:
        """Returns the timeline of frames with known presentation times, ascending.

        Raises:
            DecodeError: no_frames.
        """
        if not pts:
            raise DecodeError("no_frames")
        first, last = pts[0], pts[-1]
        # In some containers the last frame has no length. Then it gets the mean one.
        length = durations.get(last) or (last - first) / max(1, len(pts) - 1)
        # Integers until the division. Fractions give the same result in ten times the time.
        above, below = self.time_base.numerator, self.time_base.denominator
        times = [round((value - first) * above / below, 4) for value in pts]
        return Timeline(pts, times, round((last - first) * above / below + float(length * self.time_base), 4))

    def even(self, total: int) -> Timeline:
        """Returns the timeline of frames without reliable times, at equal distances that follow from the stated rate.

        In AVI the distances are equal unless frames were dropped.

        Raises:
            DecodeError: no_frames, or unreadable if no rate is stated.
        """
        if total == 0:
            raise DecodeError("no_frames")
        if (slots := self.slots) is not None and len(slots) == total:
            timed = self.timed(slots, {})
            return Timeline(None, timed.times_seconds, timed.duration_seconds)
        if not self.rate:
            raise DecodeError("unreadable", "neither times nor a frame rate")
        times = [round(index * self.rate.denominator / self.rate.numerator, 4) for index in range(total)]
        return Timeline(None, times, round(float(total / self.rate), 4))


def open_listed(path: str) -> InputContainer:
    """Opens a file of one of :data:`CONTAINERS`. FFmpeg's errors are raised as they are."""
    # Without the prefix, a colon in a name would mark a protocol.
    return av.open(f"file:{path}", metadata_errors="ignore", options={"format_whitelist": ",".join(CONTAINERS)})


@contextlib.contextmanager
def open_video(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a file and its first video stream, to be decoded by one thread. Other streams are not read.

    Raises:
        DecodeError: unreadable, unsupported, truncated or no_video_stream.
    """
    try:
        container = open_listed(path)
    except MemoryError:
        raise
    except av.error.ArgumentError:
        # FFmpeg knows the container, and the list does not.
        raise DecodeError("unsupported", "container") from None
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError("unreadable", type(error).__name__) from None
    with container:
        _check_stated_bytes(path)
        streams = _video_streams(container)
        if not streams:
            raise DecodeError("no_video_stream")
        for other in container.streams:
            if other is not streams[0]:
                other.discard = Discard.all
        if streams[0].codec_context is None:
            raise DecodeError("unreadable", "unknown codec")
        streams[0].codec_context.thread_count = 1
        yield container, streams[0]


def _check_stated_bytes(path: str) -> None:
    stated, found = stated_bytes(path), os.path.getsize(path)
    if stated is not None and found < MIN_FRACTION * stated:
        raise DecodeError("truncated", f"{found} of {stated} bytes")


def _video_streams(container: InputContainer) -> list[VideoStream]:
    """Returns the video streams without cover pictures."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


@contextlib.contextmanager
def breaking_off() -> Iterator[None]:
    """Ends a ``with`` block where a file breaks off, whichever error of FFmpeg says so."""
    try:
        yield
    except MemoryError:
        raise
    except av.error.FFmpegError:
        return


def read_packets(container: InputContainer, stream: VideoStream) -> PacketTable:
    """Reads all packets of a stream, once, from the beginning to the end.

    Raises:
        DecodeError: no_frames or truncated.
    """
    packets = []
    empty = 0
    # A file that breaks off still has the packets before the break.
    with breaking_off():
        for packet in container.demux(stream):
            if packet.size:
                packets.append(
                    Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, packet.is_discard)
                )
            else:
                empty += 1  # shows nothing, though an index may list it
    listed = len(stream.index_entries) if container.format.name == MOV else 0
    if len(packets) + empty < MIN_FRACTION * listed:
        raise DecodeError("truncated", f"{len(packets)} of {listed} frames")
    if not packets:
        raise DecodeError("no_frames")
    context = stream.codec_context
    return PacketTable(
        container=container.format.name,
        codec=context.name,
        pixels=context.pix_fmt,
        width=context.width,
        height=context.height,
        video_streams=len(_video_streams(container)),
        time_base=stream.time_base or Fraction(1, 1000),
        rate=_rate(container.format.name, stream),
        packets=packets,
    )


def _rate(container: str, stream: VideoStream) -> Fraction | None:
    """Returns the mean frame rate. An elementary stream has no container to state it, and FFmpeg says 25 for each."""
    if container in ELEMENTARY:
        return stream.guessed_rate or stream.average_rate
    return stream.average_rate or stream.guessed_rate
