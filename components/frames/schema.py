"""The columns of a frame store, the names of its files, and the reasons why a video can fail."""

from __future__ import annotations

import pyarrow as pa

FORMAT = 2
CARD = "card.json"
MANIFEST = "manifest.parquet"
LEDGER = "ledger.parquet"
TRAINING = "training.json"

DECODED = "decoded"
FAILED = "failed"

# One row per decoded video. The types are explicit, or a shard without any frame would have the type list<null>.
FRAMES_SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("frames", pa.list_(pa.field("jpeg", pa.binary(), nullable=False)), nullable=False),
        pa.field("timestamps_seconds", pa.list_(pa.float64()), nullable=False),
        pa.field("frame_indices", pa.list_(pa.int64()), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("source_width", pa.int32(), nullable=False),
        pa.field("source_height", pa.int32(), nullable=False),
        pa.field("source_frames", pa.int64(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("duration_seconds", pa.float64(), nullable=False),
        pa.field("content_sha256", pa.string(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),
        pa.field("corrupt_frames", pa.int32()),
    ]
)

# One row per manifest row, in manifest order. No value depends on the speed of the machine or the order of the work.
# `decoder` is the name and version of what made the frames. In a failed row it is the value of the setting.
LEDGER_SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),
        pa.field("corrupt_frames", pa.int32()),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int32()),
    ]
)
# The last column exists only if there is such a video: the id of the one whose frames it shows backwards. The place of
# both is that of these frames.
LEDGER_WITH_REVERSALS = LEDGER_SCHEMA.append(pa.field("reverse_of", pa.string()))
# In the same way: the id of the video of which the row is a window.
WINDOW_OF = pa.field("window_of", pa.string())

# Why a video has no frames. `detail` in the ledger is the type of the exception, the signal, the limit or a count.
REASONS = {
    "missing_file": "no file under the manifest's uri",
    "not_fetched": "the storage did not return the file, and the next run tries again",
    "changed_while_read": "the file changed while it was read, and the next run tries again",
    "not_regular_file": "a folder, pipe or device",
    "empty_file": "zero bytes",
    "unreadable": "not a video, or damaged so that the decoder cannot open it",
    "unsupported": "a kind of file that the decoder is known to read wrongly, or a container that is not on the list",
    "no_video_stream": "a media file without pictures",
    "no_frames": "a video stream without frames",
    "truncated": "the file contains less than nine tenths of the frames or bytes that its header states",
    "empty_segment": "no frame between the segment's start and end",
    "outside_file": "the segment ends more than a second after the file",
    "decode_error": "opened, but the sampled frames could not be decoded, resized or stored",
    "wrong_answer": "the decoder returned times or frame numbers that cannot be right",
    "damaged": "more than half of the sampled frames, or of the packets, are damaged",
    "too_many_windows": "more than 20,000 windows: raise tasks.<task>.windows.seconds, or lower its overlap",
    "extreme_shape": "one side of the picture is more than 16 times the other",
    "timeout": "more than frames.time_limit_seconds of processor time or of sleep, or 30 times as long by the clock",
    "out_of_memory": "the decoding process needed more than frames.memory_limit_mib, or more than the machine has",
    "crashed": "the decoding process died",
}


def shard_name(number: int) -> str:
    """The file name of a shard."""
    return f"shard-{number:05d}.parquet"
