"""decord: https://github.com/dmlc/decord.

The reader is opened, read once and dropped, since an open decord reader continues to decode in the background without
limit. It uses one thread. Several threads per video cost 20 % more processor time than one process per core.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import decord
import numpy as np
from numpy.typing import NDArray

from components.ingest.decoders.base import TAKEN, Choose, DecodedFrames, DecodeError, FrameTimes, Take
from components.ingest.decoders.packets import open_video, read_packets
from components.ingest.decoders.plain import why_refused
from components.ingest.decoders.pyav import look, refuse_unseen

try:
    VERSION = f"decord {metadata.version('decord')}"
except metadata.PackageNotFoundError:  # the maintained fork has the same import name
    VERSION = f"decord2 {metadata.version('decord2')}"


# A larger difference from the packets' times means other frames. This is half a frame at 500 fps.
TOLERANCE_SECONDS = 1e-3

# Frames in memory at once where they are given away.
TAKEN_AT_ONCE = 8


def decode(path: str, choose: Choose, side: int | None = None, take: Take | None = None) -> DecodedFrames:
    """Decodes the chosen frames of one file, in one batch. With ``side``, they are squeezed to squares of that size.

    Files that decord is known to read wrongly are refused.

    Raises:
        DecodeError: unreadable, unsupported, no_video_stream, no_frames, truncated, empty_segment, or decode_error
            if decord's frames are not those of the packets.
    """
    with open_video(path) as (container, stream):
        table = read_packets(container, stream)
        if (fault := why_refused(table)) is not None:
            raise DecodeError("unsupported", fault)
        timeline = table.timeline
        reader = _open(path, side)
        _check_count(reader, len(timeline.times_seconds))
        shown = reader.get_frame_timestamp(range(len(reader)))  # float32[total, 2]: start and end in seconds
        shown = shown - shown[0, 0]
        starts = [round(float(start), 4) for start in shown[:, 0]]
        if not np.allclose(starts, timeline.times_seconds, rtol=0, atol=TOLERANCE_SECONDS):
            raise DecodeError("decode_error", "decord states other times than the packets")
        indices = choose(FrameTimes(starts, timeline.duration_seconds))
        if not indices:
            raise DecodeError("empty_segment")
        refuse_unseen(look(container, stream, table, indices))
    return DecodedFrames(
        frames=_pictures(reader, indices, take),
        indices=indices,
        timestamps_seconds=[starts[index] for index in indices],
        source_frames=len(reader),
        fps=round(float(reader.get_avg_fps()), 6),
        duration_seconds=round(float(shown[-1, 1]), 4),
        decoder=VERSION,
    )


def read(
    path: str, indices: list[int], total: int, side: int | None = None, take: Take | None = None
) -> list[NDArray[np.uint8]]:
    """Decodes frames by their numbers, from a file that is known to have ``total`` frames.

    Returns:
        ``uint8[H, W, 3]`` per number, without content if ``take`` received the frames.

    Raises:
        DecodeError: unreadable, no_video_stream, or decode_error if decord counts a different number of frames.
    """
    reader = _open(path, side)
    _check_count(reader, total)
    return _pictures(reader, indices, take)


def _pictures(reader: Any, indices: list[int], take: Take | None) -> list[NDArray[np.uint8]]:
    """Reads frames, and gives them away a few at a time if there is a ``take``. decord goes on from where it is."""
    if take is None:
        return list(reader.get_batch(indices).asnumpy())
    for start in range(0, len(indices), TAKEN_AT_ONCE):
        numbers = indices[start : start + TAKEN_AT_ONCE]
        for number, picture in zip(numbers, reader.get_batch(numbers).asnumpy(), strict=True):
            take(number, picture)
    return [TAKEN] * len(indices)


def _check_count(reader: Any, total: int) -> None:
    if len(reader) != total:
        raise DecodeError("decode_error", f"decord counts {len(reader)} frames, {total} are shown")


def _open(path: str, side: int | None) -> Any:
    size = -1 if side is None else side
    try:
        return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1, width=size, height=size)
    except Exception as error:  # DECORDError derives from Exception directly
        without_video = "cannot find video stream" in str(error)
        raise DecodeError("no_video_stream" if without_video else "unreadable", type(error).__name__) from None
