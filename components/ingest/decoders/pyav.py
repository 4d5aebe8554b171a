"""PyAV: https://github.com/PyAV-Org/PyAV.

The packets of the file are read first (:mod:`components.ingest.decoders.packets`). Then decoding begins at the key
frame before each wanted frame and ends at that frame. Only wanted frames are converted. Frames that no other frame
refers to are not decoded unless they are wanted. In MSR-VTT's clips they are a third of all frames.
If times or key frames are not reliable, the file is decoded from its beginning instead.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from components.ingest.decoders.base import Choose, DecodedFrames, DecodeError
from components.ingest.decoders.orientation import as_shown, is_upright_or_turned
from components.ingest.decoders.packets import (
    MATROSKA,
    MOV,
    PacketTable,
    Timeline,
    breaking_off,
    open_video,
    read_packets,
)

VERSION = f"pyav {av.__version__}"

# In these codecs a coded frame says whether any other frame refers to it. (HEVC says so within a temporal layer only.)
SKIPPING_CODECS = ("h264", "mpeg4", "mpeg2video", "mpeg1video")

# If the decoder refuses a larger share of the packets, too little of the video is left.
MAX_REFUSED_SHARE = 0.5

# What `look` decodes: the first frames of a few groups of pictures.
LOOK_GROUPS, LOOK_FRAMES = 4, 3


def decode(path: str, choose: Choose, side: int | None = None) -> DecodedFrames:
    """Decodes the chosen frames of one file. With ``side``, they are squeezed to squares of that many pixels.

    Raises:
        DecodeError: unreadable, unsupported, no_video_stream, no_frames, truncated, empty_segment, damaged or
            decode_error.
    """
    with open_video(path) as (container, stream):
        table = read_packets(container, stream)
        return decode_packets(path, container, stream, table, choose, side)


def decode_packets(
    path: str, container: InputContainer, stream: VideoStream, table: PacketTable, choose: Choose, side: int | None
) -> DecodedFrames:
    """Decodes the chosen frames of an open file after its packets were read.

    Raises:
        DecodeError: no_frames, empty_segment, unreadable, damaged or decode_error.
    """
    groups = _groups(table, table.timeline.chosen(choose))
    if groups is not None:
        collector = _Collector(side)
        for start, wanted in groups:
            container.seek(start, stream=stream)
            collector.collect(container, stream, set(wanted))
        if collector.complete:
            return collector.result(table.timeline)
    return _decode_from_the_start(path, table, choose, side)


@dataclass
class _Collector:
    """Collects wanted frames.

    Args:
        side: Side of the squares that frames are squeezed to. None keeps their size.
        by_number: Whether frames are told apart by their numbers, since times are not reliable.
        found: Converted frames by presentation time or number.
        missed: Wanted frames that did not appear.
        packets: Packets that the decoder was given.
        flagged: Frames that the decoder flagged as damaged.
        refused: Presentation time, decoding time and position of the packets that the decoder refused.
        key_frames: Frames that need no other one, and refused packets that should have held one.
    """

    side: int | None
    by_number: bool = False
    found: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    missed: int = 0
    packets: int = 0
    flagged: set[int] = field(default_factory=set)
    refused: set[tuple[int | None, int | None, int | None]] = field(default_factory=set)
    key_frames: set[int] = field(default_factory=set)
    reformatter: VideoReformatter = field(default_factory=VideoReformatter)

    def collect(self, container: InputContainer, stream: VideoStream, wanted: set[int]) -> None:
        """Decodes from the container's position until every wanted frame has appeared."""
        last = max(wanted)
        before = None
        needed = None if self.by_number else frozenset(wanted)
        for number, frame in enumerate(self.frames(container, stream, needed)):
            key = number if self.by_number else frame.pts
            if key is None or (before is not None and key <= before):
                break  # these times are not reliable
            before = key
            if key in wanted:
                self.found[key] = self._picture(frame)
                wanted.discard(key)
            if not wanted or key > last:
                break
        self.missed += len(wanted)

    def frames(
        self, container: InputContainer, stream: VideoStream, needed: Container[int] | None = None
    ) -> Iterator[av.VideoFrame]:
        """Yields decoded frames in the order in which they are shown, and notes damage.

        Args:
            container, stream: Decoded from their position.
            needed: Presentation times. Other frames may be skipped if the codec allows it. None means all are needed.
        """
        if stream.codec_context.name not in SKIPPING_CODECS:
            needed = None
        after_needed = False
        number = -1
        for packet in _packets(container, stream):
            if needed is not None:
                is_needed = packet.pts in needed
                # The other field of a needed frame may come in a separate packet.
                stream.codec_context.skip_frame = "DEFAULT" if is_needed or after_needed else "NONREF"
                after_needed = is_needed
            self.packets += packet.size > 0
            try:
                frames = stream.codec_context.decode(packet)
            except MemoryError:
                raise
            except av.error.FFmpegError:
                self._refuse(packet)
                continue
            for number, frame in enumerate(frames, number + 1):
                self._note(frame, number)
                yield frame

    def _refuse(self, packet: av.Packet) -> None:
        self.refused.add((packet.pts, packet.dts, packet.pos))
        if packet.is_keyframe and packet.pts is not None and not self.by_number:
            self.key_frames.add(packet.pts)

    def _note(self, frame: av.VideoFrame, number: int) -> None:
        if not (frame.is_corrupt or frame.key_frame):
            return
        key = number if self.by_number or frame.pts is None else frame.pts
        if frame.is_corrupt:
            self.flagged.add(key)
        if frame.key_frame:
            self.key_frames.add(key)

    @property
    def complete(self) -> bool:
        """Whether every wanted frame appeared."""
        return self.missed == 0

    def result(self, timeline: Timeline) -> DecodedFrames:
        """Returns the collected frames with their numbers and times.

        Raises:
            DecodeError: damaged, if the decoder refused too many packets.
        """
        if len(self.refused) > MAX_REFUSED_SHARE * self.packets:
            raise DecodeError("damaged", f"the decoder refuses {len(self.refused)} of {self.packets} packets")
        keys = sorted(self.found)
        places = {pts: index for index, pts in enumerate(timeline.pts)} if timeline.pts is not None else None
        indices = keys if places is None else [places[key] for key in keys]
        pictures = [self.found[key] for key in keys]
        corrupt = len(self.flagged) + sum(pts not in self.flagged for pts, _, _ in self.refused)
        return timeline.decoded(pictures, indices, VERSION, corrupt, self._damaged())

    def _damaged(self) -> int:
        """Counts the collected frames that show damage, see :class:`DecodedFrames`."""
        bad = set(self.flagged)
        if not self.by_number:
            bad.update(pts for pts, _, _ in self.refused if pts is not None)
        if not bad:
            return 0
        starts = sorted(self.key_frames)
        built_on = {key: starts[place - 1] if (place := bisect_right(starts, key)) else None for key in self.found}
        return sum(key in bad or start in bad for key, start in built_on.items())

    def _picture(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        shaped = self.reformatter.reformat(frame, self.side, self.side, format="rgb24")
        return as_shown(frame, np.asarray(shaped.to_ndarray(), np.uint8))


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Yields packets until the file ends or breaks off, and then an empty one, which flushes the decoder.

    A packet without bytes in the middle repeats the frame before, and decoders refuse it.
    """
    with breaking_off():
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    yield av.Packet()


@dataclass(frozen=True)
class Look:
    """What the first frames of a few groups of pictures tell about a file.

    Args:
        damaged: Whether the decoder flagged one of them, or refused its packet.
        is_upright_or_turned: Whether an angle tells how they are shown, see :mod:`.orientation`.
    """

    damaged: bool
    is_upright_or_turned: bool


def look(container: InputContainer, stream: VideoStream, table: PacketTable, indices: Sequence[int]) -> Look:
    """Looks for damage and mirroring, which packets do not show, and of which decord says nothing.

    Args:
        container, stream: The open file. Its position changes.
        table: Its packets.
        indices: The numbers of the wanted frames. Only their groups are looked at.
    """
    groups = _groups(table, indices) or []
    collector = _Collector(None)
    upright = True
    for place in sorted({number * len(groups) // LOOK_GROUPS for number in range(LOOK_GROUPS)} if groups else ()):
        container.seek(groups[place][0], stream=stream)
        for frame in islice(collector.frames(container, stream), LOOK_FRAMES):
            upright = upright and is_upright_or_turned(frame)
    return Look(bool(collector.flagged or collector.refused), upright)


def _groups(table: PacketTable, indices: Sequence[int]) -> list[tuple[int, list[int]]] | None:
    """Returns the time of each key frame to start from, with the times of the wanted frames that follow.

    Returns:
        Presentation times. None if seeking is not reliable.
    """
    pts = table.timeline.pts
    if table.container not in (MOV, MATROSKA) or pts is None or not table.packets[0].key:
        return None
    wanted = {pts[index] for index in indices}
    groups: dict[int, list[int]] = {}
    keys: list[int] = []
    for packet in table.packets:
        if packet.pts is None:
            continue
        if packet.key:
            keys.append(packet.pts)
        if packet.pts in wanted and not packet.hidden:
            # A frame that follows a key frame but is shown before it (open GOP) needs the group before.
            start = next((key for key in reversed(keys) if key <= packet.pts), None)
            if start is None:
                return None
            groups.setdefault(start, []).append(packet.pts)
    return sorted(groups.items())


def _decode_from_the_start(path: str, table: PacketTable, choose: Choose, side: int | None) -> DecodedFrames:
    """Decodes once if the frames are those that the packets promise. Otherwise counts them first, then decodes."""
    timeline = table.timeline if _begins_whole(table) else _count(path, table)
    collector = _collect_from_the_start(path, timeline, timeline.chosen(choose), side)
    if not collector.complete:
        timeline = _count(path, table)
        collector = _collect_from_the_start(path, timeline, timeline.chosen(choose), side)
    if not collector.complete:
        raise DecodeError("decode_error", "frames differ from one reading to the next")
    return collector.result(timeline)


def _begins_whole(table: PacketTable) -> bool:
    """Whether the first packet is a key frame before which nothing is shown. If not, some first frames never appear."""
    first = table.packets[0]
    return first.key and (table.timeline.pts is None or first.hidden or first.pts == table.timeline.pts[0])


def _collect_from_the_start(path: str, timeline: Timeline, indices: Sequence[int], side: int | None) -> _Collector:
    pts = timeline.pts
    collector = _Collector(side, by_number=pts is None)
    wanted = set(indices) if pts is None else {pts[index] for index in indices}
    with open_video(path) as (container, stream):
        collector.collect(container, stream, wanted)
    return collector


def _count(path: str, table: PacketTable) -> Timeline:
    """Counts the frames that appear.

    Raises:
        DecodeError: decode_error if no frame appears.
    """
    with open_video(path) as (container, stream):
        shown = [(frame.pts, frame.duration or 0) for frame in _Collector(None).frames(container, stream)]
    if not shown:
        raise DecodeError("decode_error", "no frame can be decoded")
    durations = {pts: duration for pts, duration in shown if pts is not None}
    rising = [pts for pts, _ in shown] == sorted(durations)
    return table.timed(sorted(durations), durations) if rising else table.even(len(shown))
