"""The decoder that fits the file: decord for plain files, PyAV for all others and for those that cost it less.

decord answers wrongly, or never, for ordinary files whose packets are not plain: hidden frames before a cut (edit
lists), AVI, transport and program streams, ASF, open groups of pictures, negative or duplicate times. The packets tell
that in milliseconds, and a look at a few frames tells whether a file is mirrored or damaged. Where decord is not
installed, PyAV decodes everything.

If a file is plain, the other decoder is the fallback when the first finds nothing to decode (``unreadable``,
``no_video_stream``, ``no_frames``, ``decode_error``, or any exception that is not a DecodeError). No decoder can help
where the file or its annotation is at fault (``truncated``, ``empty_segment``). If PyAV cannot open a file, decord does
not get it, since decord follows playlists to other files.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

from components.ingest.decoders import pyav
from components.ingest.decoders.base import Choose, DecodedFrames, DecodeError, Take
from components.ingest.decoders.packets import PacketTable, open_video, read_packets
from components.ingest.decoders.plain import why_not_plain as why_not_plain

# Its wheels are for x86_64 only.
HAS_DECORD = importlib.util.find_spec("decord") is not None
if HAS_DECORD:
    from components.ingest.decoders import decord

# Above either limit PyAV costs less. In long files it saves a third of the time, and in HD it needs a quarter of the
# memory: decord converts every frame that it decodes to RGB, PyAV only the wanted ones.
MAX_PIXELS = 640 * 480
MAX_FRAMES = 1500
FALLBACK_REASONS = ("unreadable", "no_video_stream", "no_frames", "decode_error")


def decode(path: str, choose: Choose, side: int | None = None, take: Take | None = None) -> DecodedFrames:
    """Decodes the chosen frames of one file. With ``side``, they are squeezed to squares of that many pixels.

    Raises:
        DecodeError: unreadable, unsupported, no_video_stream, no_frames, truncated, empty_segment, damaged or
            decode_error.
    """
    with open_video(path) as (container, stream):
        table = read_packets(container, stream)

        def by_pyav() -> DecodedFrames:
            return pyav.decode_packets(path, container, stream, table, choose, side, take)

        @functools.cache
        def seen() -> pyav.Look:
            return pyav.look(container, stream, table, table.timeline.chosen(choose))

        def by_decord() -> DecodedFrames:
            timeline = table.timeline
            indices = timeline.chosen(choose)
            pyav.refuse_unseen(seen())
            frames = decord.read(path, indices, len(timeline.times_seconds), side, take)
            return timeline.decoded(frames, indices, decord.VERSION)

        if not HAS_DECORD or why_not_plain(table) is not None:
            return by_pyav()
        if costs_pyav_less(table):
            return _first_of(by_pyav, by_decord)
        if seen().damaged or not seen().is_upright_or_turned:
            return by_pyav()
        return _first_of(by_decord, by_pyav)


def costs_pyav_less(table: PacketTable) -> bool:
    """Whether a plain file is long or large, or has B-frames that PyAV can skip. Otherwise both cost about the same."""
    if table.width * table.height > MAX_PIXELS or len(table.packets) > MAX_FRAMES:
        return True
    return table.reordered and table.codec in pyav.SKIPPING_CODECS


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
