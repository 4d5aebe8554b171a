"""How many cores, hours and bytes an ingest takes, computed from measurements.

``hours`` is the longest of three times: processors, the network that brings the videos, and the storage that takes the
frames. They overlap, since every core fetches, decodes and writes independently. The plan names the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.config import check
from components.errors import ConfigError
from components.frames import schema
from components.ingest.decoders.base import DecodeError
from components.ingest.windows import fixed_spans
from components.task import WindowSettings

GIB, TIB = 2**30, 2**40


@dataclass(frozen=True)
class Source:
    """A kind of video.

    Args:
        ms_per_second: Processor milliseconds to decode a second of it, without the frames that no other frame needs.
        ms_per_frame: Processor milliseconds to convert, resize and store a frame.
        packets_ms_per_second: Processor milliseconds to read the packets of a second. 0 where ``ms_per_second`` has it.
        longest_gap_seconds: Time between key frames. A frame of a long video costs half of it, not everything before.
        mbit_per_second: The file's bit rate.
    """

    ms_per_second: float
    ms_per_frame: float
    packets_ms_per_second: float
    longest_gap_seconds: float
    mbit_per_second: float


# Measured by `bench/ingest.py`, see docs/ingest.md: five clips of MSR-VTT (19.6 s on average, 0.35 Mbit/s, key frames
# up to 10 s apart), and an hour of 1080p with a key frame every 2 s.
SOURCES = {
    "240p": Source(
        ms_per_second=3.0, ms_per_frame=1.4, packets_ms_per_second=0.0, longest_gap_seconds=10.0, mbit_per_second=0.35
    ),
    "1080p": Source(
        ms_per_second=52.0, ms_per_frame=19.0, packets_ms_per_second=0.117, longest_gap_seconds=2.0, mbit_per_second=5.0
    ),
}
# Check, isolation, hash, Parquet and Ray.
MS_PER_VIDEO = 13.0
# Stored frames of 298 x 224, 4:4:4, by JPEG quality.
KIB_PER_FRAME = {90: 17.9, 95: 25.6}
# Wall clock of each start of Ray and its processes.
START_SECONDS = 10.0


@dataclass(frozen=True)
class CapacityPlan:
    """What an ingest takes.

    Args:
        core_hours: Processor time.
        hours: Wall clock from start to end.
        bound: What limits the wall clock: processors, network or storage.
        read_bytes: Length of all videos.
        store_bytes: Length of all frames.
        network_gbit: Gigabits per second with which no core waits for a video.
        write_mb: Megabytes per second with which no core waits for the storage.
        shards: Files of the store.
        rows: Rows of the store: videos and windows.
    """

    core_hours: float
    hours: float
    bound: str
    read_bytes: float
    store_bytes: float
    network_gbit: float
    write_mb: float
    shards: int
    rows: int


def windows_of(seconds: float, length: float, overlap: float) -> int:
    """The number of windows that ingest makes of a video.

    Args:
        seconds: The length of the video.
        length, overlap: As ``seconds`` and ``overlap`` of :class:`components.task.WindowSettings`.

    Raises:
        ConfigError: There cannot be such windows, or there are too many.
    """
    settings = check(WindowSettings, {"seconds": length, "overlap": overlap}, "--windows")
    try:
        return len(fixed_spans(0.0, seconds, settings.seconds, settings.overlap))
    except DecodeError as error:
        raise ConfigError(schema.REASONS[error.reason], where="--windows", found=length) from None


def decode_ms(source: Source, seconds: float, frames: int) -> float:
    """Returns processor milliseconds to decode ``frames`` evenly spaced frames of one video.

    Decoding a frame starts at the key frame before it, on average half of the gap between two key frames. All frames
    together cost at most the whole video.
    """
    decoded = min(seconds, frames * source.longest_gap_seconds / 2)
    return decoded * source.ms_per_second


def plan(
    videos: int,
    source: Source,
    *,
    seconds: float,
    frames: int,
    quality: int,
    cores: int,
    network_gbit: float,
    write_mb: float,
    shard_videos: int,
    windows: int = 0,
) -> CapacityPlan:
    """Computes cores, hours and bytes.

    A frame of two windows is stored twice. It is counted as if it were also resized twice, which is at most right.

    Args:
        videos: How many videos.
        source: Their kind.
        seconds: Their mean length.
        frames: T, frames stored per video and per window, of 298 x 224.
        quality: JPEG quality, a key of :data:`KIB_PER_FRAME`.
        cores: Cores that decode.
        network_gbit: Gigabits per second from the place of the videos, for all cores together.
        write_mb: Megabytes per second that the store's storage takes, for all cores together.
        shard_videos: Videos per shard.
        windows: Windows per video.
    """
    frames *= 1 + windows
    each_ms = decode_ms(source, seconds, frames) + frames * source.ms_per_frame
    each_ms += seconds * source.packets_ms_per_second + MS_PER_VIDEO
    core_seconds = videos * each_ms / 1000
    read = videos * seconds * source.mbit_per_second * 1e6 / 8
    stored = videos * frames * KIB_PER_FRAME[quality] * 1024
    shards = -(-videos // shard_videos)
    # A core works on a whole shard.
    busy = min(cores, shards)
    takes = {
        "processors": START_SECONDS + core_seconds / busy,
        "network": read * 8 / (network_gbit * 1e9),
        "storage": stored / (write_mb * 1e6),
    }
    bound = max(takes, key=lambda name: takes[name])
    rate = busy * 1000 / each_ms  # videos per second
    return CapacityPlan(
        core_hours=core_seconds / 3600,
        hours=takes[bound] / 3600,
        bound=bound,
        read_bytes=read,
        store_bytes=stored,
        network_gbit=rate * read / videos * 8 / 1e9,
        write_mb=rate * stored / videos / 1e6,
        shards=shards,
        rows=videos * (1 + windows),
    )
