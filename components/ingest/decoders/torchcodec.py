"""torchcodec: https://github.com/meta-pytorch/torchcodec, the extra ``torchcodec``. It needs FFmpeg's libraries.

This is the only decoder that loads torch into the decoding process, which takes up to 700 MB, and seconds after every
crash. Frame times come from the file's packets. If torchcodec returns frames of other times, that is an error.
"""

from __future__ import annotations

from importlib import metadata

import numpy as np
from torchcodec.decoders import VideoDecoder

from components.ingest.decoders.base import Choose, DecodedFrames, DecodeError
from components.ingest.decoders.packets import open_video, read_packets
from components.ingest.decoders.pyav import look, refuse_unseen

VERSION = f"torchcodec {metadata.version('torchcodec')}"

# A larger difference from the packet's time means another frame. This is half a frame at 500 fps.
TOLERANCE_SECONDS = 1e-3


def decode(path: str, choose: Choose, side: int | None = None) -> DecodedFrames:
    """Decodes the chosen frames of one file. With ``side``, they are squeezed to squares of that many pixels.

    Raises:
        DecodeError: unreadable, no_video_stream, no_frames, truncated, empty_segment, unsupported,
            damaged or decode_error.
    """
    with open_video(path) as (container, stream):
        table = read_packets(container, stream)
        timeline = table.timeline
        number = stream.index
        indices = timeline.chosen(choose)
        refuse_unseen(look(container, stream, table, indices))
    try:
        decoder = VideoDecoder(
            path,
            stream_index=number,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            device="cpu",
            # The other mode guesses which frame has a number.
            seek_mode="exact",
        )
        batch = decoder.get_frames_at(indices)
    except Exception as error:  # RuntimeError, ValueError or IndexError for damaged files
        raise DecodeError("decode_error", type(error).__name__) from None
    start = decoder.metadata.begin_stream_seconds or 0.0
    wanted = [timeline.times_seconds[index] for index in indices]
    if not np.allclose(batch.pts_seconds.numpy() - start, wanted, rtol=0, atol=TOLERANCE_SECONDS):
        raise DecodeError("decode_error", "torchcodec returns frames of other times")
    frames = list(batch.data.numpy())
    return timeline.decoded(frames if side is None else [_squeezed(frame, side) for frame in frames], indices, VERSION)


def _squeezed(frame: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BILINEAR))
