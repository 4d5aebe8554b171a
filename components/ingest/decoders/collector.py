"""Collects the wanted frames from a container's position on, and notes damage on the way."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from components.ingest.decoders.base import MAX_DAMAGED_SHARE, TAKEN, DecodedFrames, DecodeError, Take
from components.ingest.decoders.orientation import as_shown
from components.ingest.decoders.packets import Timeline, breaking_off

VERSION = f"pyav {av.__version__}"

# In these codecs a coded frame says whether any other frame refers to it. (HEVC says so within a temporal layer only.)
SKIPPING_CODECS = ("h264", "mpeg4", "mpeg2video", "mpeg1video")


@dataclass
class Collector:
    """Collects wanted frames.

    Args:
        side: Side of the squares that frames are squeezed to. None keeps their size.
        by_number: Whether frames are told apart by their numbers, since times are not reliable.
        take: Receives the frames. None means that the answer has them.
        numbers: The number of each presentation time, for ``take``.
        found: Converted frames by presentation time or number.
        missed: Wanted frames that did not appear.
        packets: Packets that the decoder was given.
        flagged: Frames that the decoder flagged as damaged.
        refused: Presentation time, decoding time and position of the packets that the decoder refused.
        key_frames: Frames that need no other one, and refused packets that should have held one.
    """

    side: int | None
    by_number: bool = False
    take: Take | None = None
    numbers: Mapping[int, int] = field(default_factory=dict)
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
                self.found[key] = self._kept(key, self._picture(frame))
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
        shown = itertools.count()
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
            for frame in frames:
                self._note(frame, next(shown))
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
        if len(self.refused) > MAX_DAMAGED_SHARE * self.packets:
            raise DecodeError("damaged", f"the decoder refuses {len(self.refused)} of {self.packets} packets")
        keys = sorted(self.found)
        if timeline.pts is None:
            indices = keys
        else:
            places = self.numbers or {pts: index for index, pts in enumerate(timeline.pts)}
            indices = [places[key] for key in keys]
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

    def _kept(self, key: int, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.take is None:
            return picture
        self.take(key if self.by_number else self.numbers[key], picture)
        return TAKEN

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
