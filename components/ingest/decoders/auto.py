"""The decoder that fits the file: decord for plain ones, PyAV for all others and for those that cost it less.

decord answers wrongly, or never, for ordinary files whose packets are not plain: hidden frames before a cut (edit
lists), AVI, transport and program streams, ASF, open groups of pictures, negative or doubled times. The packets tell
that in milliseconds. Where decord is not installed, PyAV decodes everything.

The other one is the fall-back for a plain file, and for a plain file only, on which the first finds nothing to decode
(``unreadable``, ``no_video_stream``, ``no_frames``, ``decode_error``, or any exception of its own); what the file or
its annotation is to blame for (``truncated``, ``empty_segment``) no other decoder cures. A file that PyAV cannot open
is not shown to decord, which follows playlists to other files.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import accumulate, pairwise

from components.ingest.decoders import pyav
from components.ingest.decoders.base import Choose, DecodedFrames, DecodeError
from components.ingest.decoders.packets import MATROSKA, MOV, PacketTable, open_video, read_packets

# There is no wheel of it but for x86_64.
HAS_DECORD = importlib.util.find_spec("decord") is not None
if HAS_DECORD:
    from components.ingest.decoders import decord

PLAIN_CODECS = ("h264", "hevc", "vp9", "mpeg4")
# Deeper ones have no conversion to RGB that libraries agree on.
PLAIN_PIXELS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")
# Below it decord fails on some widths: its rows are padded.
LEAST_WIDTH = 96
# Beyond either PyAV is the cheaper one, in long files by a third, and needs a quarter of the memory for HD: decord
# converts every frame that it decodes to RGB, PyAV the wanted ones.
MOST_PIXELS = 640 * 480
MOST_FRAMES = 1500
FALL_BACK_REASONS = ("unreadable", "no_video_stream", "no_frames", "decode_error")


def decode(path: str, choose: Choose, side: int | None = None) -> DecodedFrames:
    """The chosen frames of one file; with ``side`` squeezed to squares of that many pixels.

    Raises:
        DecodeError: unreadable, no_video_stream, no_frames, truncated, empty_segment or decode_error.
    """
    with open_video(path) as (container, stream):
        table = read_packets(container, stream)

        def by_pyav() -> DecodedFrames:
            return pyav.decode_packets(path, container, stream, table, choose, side)

        def by_decord() -> DecodedFrames:
            timeline = table.timeline
            indices = timeline.chosen(choose)
            frames = decord.read(path, indices, len(timeline.times_seconds), side)
            return timeline.decoded(frames, indices, decord.VERSION)

        if not HAS_DECORD or why_not_plain(table) is not None:
            return by_pyav()
        return _first_of(by_pyav, by_decord) if costs_pyav_less(table) else _first_of(by_decord, by_pyav)


def costs_pyav_less(table: PacketTable) -> bool:
    """Whether a plain file is long, large, or has B-frames that PyAV need not decode; else both cost about the same."""
    if table.width * table.height > MOST_PIXELS or len(table.packets) > MOST_FRAMES:
        return True
    return table.reordered and table.codec in pyav.SKIPPING_CODECS


def why_not_plain(table: PacketTable) -> str | None:
    """What of a file decord is known to read wrongly or not at all; None if nothing is."""
    shown = [packet for packet in table.packets if not packet.hidden]
    if table.container not in (MOV, MATROSKA):
        return "container"
    if table.codec not in PLAIN_CODECS:
        return "codec"
    if table.pixels not in PLAIN_PIXELS:
        return "pixel format"
    if min(table.width, table.height) < LEAST_WIDTH:
        return "narrow"
    if table.video_streams > 1:
        return "several video streams"
    if len(shown) < len(table.packets):
        return "hidden packets"
    if not table.sound:
        return "times missing or doubled"
    pts = [packet.pts for packet in shown if packet.pts is not None]
    if min(pts) < 0:
        return "negative times"
    if not table.packets[0].key:
        return "first packet is no key frame"
    newest_key = accumulate(
        (packet.pts if packet.key and packet.pts is not None else -1 for packet in table.packets), max
    )
    if any(value < key for value, key in zip(pts, newest_key, strict=True)):
        return "open group of pictures"
    keys = [packet for packet in table.packets if packet.key]
    # decord seeks to where a key frame is shown, and lands at the next one if that is decoded by then.
    if any(one.pts is None or two.dts is None or two.dts <= one.pts for one, two in pairwise(keys)):
        return "key frames too close"
    return None


def _first_of(first: Callable[[], DecodedFrames], second: Callable[[], DecodedFrames]) -> DecodedFrames:
    """What ``first`` returns, or ``second`` where that finds nothing to decode; the first one's failure if both do."""
    try:
        return first()
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, DecodeError) and error.reason not in FALL_BACK_REASONS):
            raise
        failure = error
    try:
        return second()
    except Exception:
        raise failure from None
