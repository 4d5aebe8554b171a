"""What decord reads wrongly, as far as a file's packets tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise

from components.ingest.decoders.packets import MATROSKA, MOV, PacketTable

PLAIN_CODECS = ("h264", "hevc", "vp9", "mpeg4")
# Libraries do not agree on how deeper formats become RGB.
PLAIN_PIXELS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")
# decord pads rows, and fails on some smaller widths. On the others its frames are right.
MIN_WIDTH = 96
NARROW = "narrow"


def why_not_plain(table: PacketTable) -> str | None:
    """Names the first of :data:`FAULTS` that the file has. None if it has none."""
    return next(_faults(table), None)


def why_refused(table: PacketTable) -> str | None:
    """Names the first fault for which decord would return wrong frames or times. None if there is none."""
    return next((name for name in _faults(table) if name != NARROW), None)


def _faults(table: PacketTable) -> Iterator[str]:
    return (name for name, has_fault in FAULTS.items() if has_fault(table))


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


# The order matters: later checks rely on the earlier ones.
FAULTS: dict[str, Callable[[PacketTable], bool]] = {
    "container": lambda table: table.container not in (MOV, MATROSKA),
    "codec": lambda table: table.codec not in PLAIN_CODECS,
    "pixel format": lambda table: table.pixels not in PLAIN_PIXELS,
    NARROW: lambda table: min(table.width, table.height) < MIN_WIDTH,
    "several video streams": lambda table: table.video_streams > 1,
    "hidden packets": lambda table: any(packet.hidden for packet in table.packets),
    "times missing or doubled": lambda table: not table.sound,
    "negative times": _has_negative_times,
    "first packet is no key frame": lambda table: not table.packets[0].key,
    "open group of pictures": _has_open_group,
    "key frames too close": _has_close_keys,
}
