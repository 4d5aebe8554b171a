"""PyAV: https://github.com/PyAV-Org/PyAV.

The packets of the file are read first (:mod:`components.ingest.decoders.packets`). Then decoding begins at the key
frame before each wanted frame and ends at that frame, and only wanted frames are converted. On the way, frames that no
other frame refers to are not decoded unless they are wanted: a third of the frames of MSR-VTT's clips.
Where times or key frames cannot be relied on, the file is decoded from its beginning instead.
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

# Codecs whose coded frames say whether any other refers to them. (HEVC's say so for their own temporal layer only.)
SKIPPING_CODECS = ("h264", "mpeg4", "mpeg2video", "mpeg1video")


def decode(path: str, choose: Choose, side: int | None = None) -> DecodedFrames:
    """The chosen frames of one file; with ``side`` squeezed to squares of that many pixels.

    Raises:
        DecodeError: unreadable, no_video_stream, no_frames, truncated, empty_segment or decode_error.
    """
    with open_video(path) as (container, stream):
        table = read_packets(container, stream)
        return decode_packets(path, container, stream, table, choose, side)


def decode_packets(
    path: str, container: InputContainer, stream: VideoStream, table: PacketTable, choose: Choose, side: int | None
) -> DecodedFrames:
    """The chosen frames of an open file whose packets are known.

    Raises:
        DecodeError: no_frames, empty_segment, unreadable or decode_error.
    """
    groups = _groups(table, table.timeline.chosen(choose))
    if groups is not None:
        run = _Run(side)
        for start, wanted in groups:
            container.seek(start, stream=stream)
            run.collect(container, stream, set(wanted))
        if run.complete:
            return run.result(table.timeline)
    return _decode_from_the_start(path, table, choose, side)


@dataclass
class _Run:
    """Frames found so far.

    Args:
        side: of the squares, None for whole frames.
        found: converted frames under their presentation time, or their number where times are not relied on.
        missed: wanted frames that did not turn up.
        corrupt: frames that the decoder flagged or refused.
    """

    side: int | None
    found: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    missed: int = 0
    corrupt: int = 0
    reformatter: VideoReformatter = field(default_factory=VideoReformatter)

    def collect(
        self, container: InputContainer, stream: VideoStream, wanted: set[int], *, by_number: bool = False
    ) -> None:
        """Decodes on from where the container stands until every wanted frame was there."""
        last = max(wanted)
        before = None
        needed = None if by_number else frozenset(wanted)
        for number, frame in enumerate(self.frames(container, stream, needed)):
            key = number if by_number else frame.pts
            if key is None or (before is not None and key <= before):
                break  # times that do not rise are no times
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
        """Decoded frames in the order in which they are shown; packets that the decoder refuses are counted.

        Args:
            container, stream: decoded on from where they stand.
            needed: presentation times; others may be missing where the codec allows it. None: all are needed.
        """
        if stream.codec_context.name not in SKIPPING_CODECS:
            needed = None
        after_needed = False
        for packet in _packets(container, stream):
            if needed is not None:
                is_needed = packet.pts in needed
                # The other field of a needed frame may come in a packet of its own.
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
        return self.missed == 0

    def result(self, timeline: Timeline) -> DecodedFrames:
        keys = sorted(self.found)
        places = {pts: index for index, pts in enumerate(timeline.pts)} if timeline.pts is not None else None
        indices = keys if places is None else [places[key] for key in keys]
        return timeline.decoded([self.found[key] for key in keys], indices, VERSION, self.corrupt)

    def _picture(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        shaped = self.reformatter.reformat(frame, self.side, self.side, format="rgb24")
        picture = np.asarray(shaped.to_ndarray(), np.uint8)
        # Display matrices turn counter-clockwise, as rot90 does.
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Up to the end or the place where a damaged file breaks off, and the empty one that flushes the decoder."""
    try:
        yield from container.demux(stream)
    except (av.error.InvalidDataError, av.error.EOFError):
        yield av.Packet()


def _groups(table: PacketTable, indices: Sequence[int]) -> list[tuple[int, list[int]]] | None:
    """Key frames, and what is wanted from each on, as presentation times; None where seeking cannot be relied on."""
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
            # Frames that follow a key frame but are shown before it (open GOP) need the group before.
            start = next((key for key in reversed(keys) if key <= packet.pts), None)
            if start is None:
                return None
            groups.setdefault(start, []).append(packet.pts)
    return sorted(groups.items())


def _decode_from_the_start(path: str, table: PacketTable, choose: Choose, side: int | None) -> DecodedFrames:
    """Once if the frames are what the packets promise; else they are counted first, then decoded again."""
    timeline = table.timeline if _begins_whole(table) else _count(path, table)
    run = _linear_run(path, timeline, timeline.chosen(choose), side)
    if not run.complete:
        timeline = _count(path, table)
        run = _linear_run(path, timeline, timeline.chosen(choose), side)
    if not run.complete:
        raise DecodeError("decode_error", "frames differ from one reading to the next")
    return run.result(timeline)


def _begins_whole(table: PacketTable) -> bool:
    """Whether the first packet is a key frame that nothing is shown before: else some first frames never appear."""
    first = table.packets[0]
    return first.key and (table.timeline.pts is None or first.hidden or first.pts == table.timeline.pts[0])


def _linear_run(path: str, timeline: Timeline, indices: Sequence[int], side: int | None) -> _Run:
    run = _Run(side)
    pts = timeline.pts
    wanted = set(indices) if pts is None else {pts[index] for index in indices}
    with open_video(path) as (container, stream):
        run.collect(container, stream, wanted, by_number=pts is None)
    return run


def _count(path: str, table: PacketTable) -> Timeline:
    """The frames that do appear.

    Raises:
        DecodeError: decode_error if there are none.
    """
    with open_video(path) as (container, stream):
        shown = [(frame.pts, frame.duration or 0) for frame in _Run(None).frames(container, stream)]
    if not shown:
        raise DecodeError("decode_error", "no frame can be decoded")
    durations = {pts: duration for pts, duration in shown if pts is not None}
    rising = [pts for pts, _ in shown] == sorted(durations)
    return table.timed(sorted(durations), durations) if rising else table.even(len(shown))
