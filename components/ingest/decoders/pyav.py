"""PyAV: https://github.com/PyAV-Org/PyAV.

The packets of the file are read first (:mod:`components.ingest.decoders.packets`). Then decoding begins at the key
frame before each wanted frame and ends at that frame. Only wanted frames are converted. Frames that no other frame
refers to are not decoded unless they are wanted. In MSR-VTT's clips they are a third of all frames.
If times or key frames are not reliable, the file is decoded from its beginning instead.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from components.ingest.decoders.base import Choose, DecodedFrames, DecodeError
from components.ingest.decoders.packets import MATROSKA, MOV, PacketTable, Timeline, open_video, read_packets

VERSION = f"pyav {av.__version__}"

# In these codecs a coded frame says whether any other frame refers to it. (HEVC says so within a temporal layer only.)
SKIPPING_CODECS = ("h264", "mpeg4", "mpeg2video", "mpeg1video")


def decode(path: str, choose: Choose, side: int | None = None) -> DecodedFrames:
    """Decodes the chosen frames of one file. With ``side``, they are squeezed to squares of that many pixels.

    Raises:
        DecodeError: unreadable, no_video_stream, no_frames, truncated, empty_segment or decode_error.
    """
    with open_video(path) as (container, stream):
        table = read_packets(container, stream)
        return decode_packets(path, container, stream, table, choose, side)


def decode_packets(
    path: str, container: InputContainer, stream: VideoStream, table: PacketTable, choose: Choose, side: int | None
) -> DecodedFrames:
    """Decodes the chosen frames of an open file after its packets were read.

    Raises:
        DecodeError: no_frames, empty_segment, unreadable or decode_error.
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
        found: Converted frames by presentation time, or by number if times are not reliable.
        missed: Wanted frames that did not appear.
        corrupt: Frames that the decoder flagged or refused.
    """

    side: int | None
    found: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    missed: int = 0
    corrupt: int = 0
    reformatter: VideoReformatter = field(default_factory=VideoReformatter)

    def collect(
        self, container: InputContainer, stream: VideoStream, wanted: set[int], *, by_number: bool = False
    ) -> None:
        """Decodes from the container's position until every wanted frame has appeared."""
        last = max(wanted)
        before = None
        needed = None if by_number else frozenset(wanted)
        for number, frame in enumerate(self.frames(container, stream, needed)):
            key = number if by_number else frame.pts
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
        """Yields decoded frames in the order in which they are shown, and counts packets that the decoder refuses.

        Args:
            container, stream: Decoded from their position.
            needed: Presentation times. Other frames may be skipped if the codec allows it. None means all are needed.
        """
        if stream.codec_context.name not in SKIPPING_CODECS:
            needed = None
        after_needed = False
        for packet in _packets(container, stream):
            if needed is not None:
                is_needed = packet.pts in needed
                # The other field of a needed frame may come in a separate packet.
                stream.codec_context.skip_frame = "DEFAULT" if is_needed or after_needed else "NONREF"
                after_needed = is_needed
            try:
                frames = stream.codec_context.decode(packet)
            except (av.error.InvalidDataError, av.error.EOFError):
                self.corrupt += 1
                continue
            for frame in frames:
                self.corrupt += frame.is_corrupt
                yield frame

    @property
    def complete(self) -> bool:
        """Whether every wanted frame appeared."""
        return self.missed == 0

    def result(self, timeline: Timeline) -> DecodedFrames:
        """Returns the collected frames with their numbers and times."""
        keys = sorted(self.found)
        places = {pts: index for index, pts in enumerate(timeline.pts)} if timeline.pts is not None else None
        indices = keys if places is None else [places[key] for key in keys]
        return timeline.decoded([self.found[key] for key in keys], indices, VERSION, self.corrupt)

    def _picture(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        shaped = self.reformatter.reformat(frame, self.side, self.side, format="rgb24")
        picture = np.asarray(shaped.to_ndarray(), np.uint8)
        # Display matrices rotate counter-clockwise, as rot90 does.
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Yields packets until the file ends or breaks off, and then an empty one, which flushes the decoder."""
    try:
        yield from container.demux(stream)
    except (av.error.InvalidDataError, av.error.EOFError):
        yield av.Packet()


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
    collector = _Collector(side)
    pts = timeline.pts
    wanted = set(indices) if pts is None else {pts[index] for index in indices}
    with open_video(path) as (container, stream):
        collector.collect(container, stream, wanted, by_number=pts is None)
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
