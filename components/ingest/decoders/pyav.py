"""PyAV: https://github.com/PyAV-Org/PyAV.

The packets of the file are read first (:mod:`components.ingest.decoders.packets`). Then decoding begins at the key
frame before each wanted frame and ends at that frame. Only wanted frames are converted. Frames that no other frame
refers to are not decoded unless they are wanted. In MSR-VTT's clips they are a third of all frames.
If times or key frames are not reliable, the file is decoded from its beginning instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from av.container import InputContainer
from av.video.stream import VideoStream

from components.ingest.decoders.base import MAX_DAMAGED_SHARE, Choose, DecodedFrames, DecodeError, Take
from components.ingest.decoders.collector import SKIPPING_CODECS as SKIPPING_CODECS
from components.ingest.decoders.collector import VERSION as VERSION
from components.ingest.decoders.collector import Collector
from components.ingest.decoders.orientation import is_upright_or_turned
from components.ingest.decoders.packets import (
    MATROSKA,
    MOV,
    PacketTable,
    Timeline,
    breaking_off,
    open_video,
    read_packets,
)

# What `look` decodes: the first frames of a few groups of pictures.
LOOK_GROUPS, LOOK_FRAMES = 3, 2


def decode(path: str, choose: Choose, side: int | None = None, take: Take | None = None) -> DecodedFrames:
    """Decodes the chosen frames of one file. With ``side``, they are squeezed to squares of that many pixels.

    Raises:
        DecodeError: unreadable, unsupported, no_video_stream, no_frames, truncated, empty_segment, damaged or
            decode_error.
    """
    with open_video(path) as (container, stream):
        table = read_packets(container, stream)
        return decode_packets(path, container, stream, table, choose, side, take)


def decode_packets(
    path: str,
    container: InputContainer,
    stream: VideoStream,
    table: PacketTable,
    choose: Choose,
    side: int | None,
    take: Take | None = None,
) -> DecodedFrames:
    """Decodes the chosen frames of an open file after its packets were read.

    Raises:
        DecodeError: no_frames, empty_segment, unreadable, damaged or decode_error.
    """
    groups = _groups(table, table.timeline.chosen(choose))
    if groups is not None:
        collector = Collector(side, take=take, numbers=_numbers(table.timeline, take))
        for start, wanted in groups:
            container.seek(start, stream=stream)
            collector.collect(container, stream, set(wanted))
        if collector.complete:
            return collector.result(table.timeline)
    return _decode_from_the_start(path, table, choose, side, take)


@dataclass(frozen=True)
class Look:
    """What the first frames of a few groups of pictures tell about a file.

    Args:
        groups: How many groups were looked at.
        damaged: In how many of them the decoder flagged a frame, refused a packet or showed nothing.
        is_upright_or_turned: Whether an angle tells how the frames are shown, see :mod:`.orientation`.
    """

    groups: int
    damaged: int
    is_upright_or_turned: bool


def look(container: InputContainer, stream: VideoStream, table: PacketTable, indices: Sequence[int]) -> Look:
    """Looks for damage and mirroring, which packets do not show, and of which decord says nothing.

    Args:
        container, stream: The open file. Its position changes.
        table: Its packets.
        indices: The numbers of the wanted frames. Only their groups are looked at.
    """
    groups = _groups(table, indices) or []
    middles = {(2 * number + 1) * len(groups) // (2 * LOOK_GROUPS) for number in range(LOOK_GROUPS)}
    places = sorted(middles) if groups else []
    damaged, upright = 0, True
    for place in places:
        collector, is_there = Collector(None), False
        with breaking_off():
            container.seek(groups[place][0], stream=stream)
            for frame in islice(collector.frames(container, stream), LOOK_FRAMES):
                upright, is_there = upright and is_upright_or_turned(frame), True
        damaged += not is_there or bool(collector.flagged or collector.refused)
    return Look(len(places), damaged, upright)


def refuse_unseen(seen: Look) -> None:
    """Refuses a file for a decoder that neither flags damage nor mirrors frames.

    Raises:
        DecodeError: unsupported or damaged.
    """
    if not seen.is_upright_or_turned:
        raise DecodeError("unsupported", "mirrored")
    if seen.damaged > MAX_DAMAGED_SHARE * seen.groups:
        raise DecodeError("damaged", f"{seen.damaged} of {seen.groups} groups of pictures")


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


def _numbers(timeline: Timeline, take: Take | None) -> dict[int, int]:
    """The number of each frame by its presentation time, if frames are taken by number."""
    return {} if take is None else {pts: index for index, pts in enumerate(timeline.pts or ())}


def _decode_from_the_start(
    path: str, table: PacketTable, choose: Choose, side: int | None, take: Take | None
) -> DecodedFrames:
    """Decodes once if the frames are those that the packets promise. Otherwise counts them first, then decodes."""
    timeline = table.timeline if _begins_whole(table) else _count(path, table)
    collector = _collect_from_the_start(path, timeline, timeline.chosen(choose), side, take)
    if not collector.complete:
        timeline = _count(path, table)
        collector = _collect_from_the_start(path, timeline, timeline.chosen(choose), side, take)
    if not collector.complete:
        raise DecodeError("decode_error", "frames differ from one reading to the next")
    return collector.result(timeline)


def _begins_whole(table: PacketTable) -> bool:
    """Whether the first packet is a key frame before which nothing is shown. If not, some first frames never appear."""
    first = table.packets[0]
    return first.key and (table.timeline.pts is None or first.hidden or first.pts == table.timeline.pts[0])


def _collect_from_the_start(
    path: str, timeline: Timeline, indices: Sequence[int], side: int | None, take: Take | None
) -> Collector:
    pts = timeline.pts
    collector = Collector(side, by_number=pts is None, take=take, numbers=_numbers(timeline, take))
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
        shown = [(frame.pts, frame.duration or 0) for frame in Collector(None).frames(container, stream)]
    if not shown:
        raise DecodeError("decode_error", "no frame can be decoded")
    durations = {pts: duration for pts, duration in shown if pts is not None}
    rising = [pts for pts, _ in shown] == sorted(durations)
    return table.timed(sorted(durations), durations) if rising else table.even(len(shown))
