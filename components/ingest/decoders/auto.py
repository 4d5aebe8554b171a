"""The decoder that fits the file: decord for plain files, PyAV for all others and for those that cost it less.

decord answers wrongly, or never, for ordinary files whose packets are not plain: hidden frames before a cut (edit
lists), AVI, transport and program streams, ASF, open groups of pictures, negative or duplicate times. The packets tell
that in milliseconds. Where decord is not installed, PyAV decodes everything.

If a file is plain, the other decoder is the fallback when the first finds nothing to decode (``unreadable``,
``no_video_stream``, ``no_frames``, ``decode_error``, or any exception that is not a DecodeError). No decoder can help
where the file or its annotation is at fault (``truncated``, ``empty_segment``). If PyAV cannot open a file, decord does
not get it, since decord follows playlists to other files.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import accumulate, pairwise

from components.ingest.decoders import pyav
from components.ingest.decoders.base import Choose, DecodedFrames, DecodeError
from components.ingest.decoders.packets import MATROSKA, MOV, PacketTable, open_video, read_packets

# Its wheels are for x86_64 only.
HAS_DECORD = importlib.util.find_spec("decord") is not None
if HAS_DECORD:
    from components.ingest.decoders import decord

PLAIN_CODECS = ("h264", "hevc", "vp9", "mpeg4")
# Libraries do not agree on how deeper formats become RGB.
PLAIN_PIXELS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")
# decord pads rows, and fails on some smaller widths.
MIN_WIDTH = 96
# Above either limit PyAV costs less. In long files it saves a third of the time, and in HD it needs a quarter of the
# memory: decord converts every frame that it decodes to RGB, PyAV only the wanted ones.
MAX_PIXELS = 640 * 480
MAX_FRAMES = 1500
FALLBACK_REASONS = ("unreadable", "no_video_stream", "no_frames", "decode_error")


def decode(path: str, choose: Choose, side: int | None = None) -> DecodedFrames:
    """Decodes the chosen frames of one file. With ``side``, they are squeezed to squares of that many pixels.

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
    """Whether a plain file is long or large, or has B-frames that PyAV can skip. Otherwise both cost about the same."""
    if table.width * table.height > MAX_PIXELS or len(table.packets) > MAX_FRAMES:
        return True
    return table.reordered and table.codec in pyav.SKIPPING_CODECS


def why_not_plain(table: PacketTable) -> str | None:
    """Names the first of :data:`FAULTS` that the file has, which decord would read wrongly. None if it has none."""
    return next((name for name, has_fault in FAULTS.items() if has_fault(table)), None)


def _has_negative_times(table: PacketTable) -> bool:
    return any(packet.pts is not None and packet.pts < 0 for packet in table.packets)


def _has_open_group(table: PacketTable) -> bool:
    """Whether a frame is shown before a key frame that comes earlier in the file."""
    newest_key = accumulate(
        (packet.pts if packet.key and packet.pts is not None else -1 for packet in table.packets), max
    )
    times = (packet.pts for packet in table.packets)
    return any(time is not None and time < key for time, key in zip(times, newest_key, strict=True))


def _has_close_keys(table: PacketTable) -> bool:
    """Whether decord would seek past a key frame.

    It seeks to the time at which the key frame is shown. If the next one is decoded by then, it arrives there.
    """
    keys = [packet for packet in table.packets if packet.key]
    return any(one.pts is None or two.dts is None or two.dts <= one.pts for one, two in pairwise(keys))


# What decord reads wrongly, or not at all. The order matters: later checks rely on the earlier ones.
FAULTS: dict[str, Callable[[PacketTable], bool]] = {
    "container": lambda table: table.container not in (MOV, MATROSKA),
    "codec": lambda table: table.codec not in PLAIN_CODECS,
    "pixel format": lambda table: table.pixels not in PLAIN_PIXELS,
    "narrow": lambda table: min(table.width, table.height) < MIN_WIDTH,
    "several video streams": lambda table: table.video_streams > 1,
    "hidden packets": lambda table: any(packet.hidden for packet in table.packets),
    "times missing or doubled": lambda table: not table.sound,
    "negative times": _has_negative_times,
    "first packet is no key frame": lambda table: not table.packets[0].key,
    "open group of pictures": _has_open_group,
    "key frames too close": _has_close_keys,
}


def _first_of(first: Callable[[], DecodedFrames], second: Callable[[], DecodedFrames]) -> DecodedFrames:
    """Returns what ``first`` decodes, or ``second`` if ``first`` finds nothing to decode.

    Raises:
        Exception: What ``first`` raised, if both fail or ``second`` cannot help.
    """
    try:
        return first()
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, DecodeError) and error.reason not in FALLBACK_REASONS):
            raise
        failure = error
    try:
        return second()
    except Exception:
        raise failure from None
