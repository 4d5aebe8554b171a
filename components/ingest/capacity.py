"""How many cores, hours and bytes an ingest takes, from what was measured.

``hours`` is the longest of three: processors, the network that brings the videos, the storage that takes the frames.
They overlap, since every core fetches, decodes and writes on its own; whichever is the longest is named.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB, TIB = 2**30, 2**40


@dataclass(frozen=True)
class Source:
    """A kind of video.

    Args:
        ms_per_second: processor milliseconds to decode a second of it, without frames that no other needs.
        ms_per_frame: to convert, resize and store one; where videos are long, its share of reading their packets too.
        longest_gap_seconds: between key frames; a frame of a long video costs half of it, not all before it.
        mbit_per_second: of the file.
    """

    ms_per_second: float
    ms_per_frame: float
    longest_gap_seconds: float
    mbit_per_second: float


# From `bench/ingest.py`, see docs/ingest.md: five clips of MSR-VTT (19.6 s on average, 0.35 Mbit/s, key frames up to
# 10 s apart), and an hour of 1080p with a key frame every 2 s.
SOURCES = {
    "240p": Source(ms_per_second=3.0, ms_per_frame=1.4, longest_gap_seconds=10.0, mbit_per_second=0.35),
    "1080p": Source(ms_per_second=52.0, ms_per_frame=54.0, longest_gap_seconds=2.0, mbit_per_second=5.0),
}
# Check, isolation, hash, Parquet and Ray.
MS_PER_VIDEO = 13.0
# Stored, 298 x 224, 4:4:4, by quality.
KIB_PER_FRAME = {90: 17.9, 95: 25.6}
# Wall clock that each start of Ray and its processes takes.
START_SECONDS = 10.0


@dataclass(frozen=True)
class Plan:
    """What an ingest takes.

    Args:
        core_hours: of processors.
        hours: from start to end.
        bound: what decides about the hours: processors, network or storage.
        read_bytes: of all videos.
        store_bytes: of all frames.
        network_gbit: per second, needed so that no core waits for a video.
        write_mb: megabytes per second, needed so that no core waits for the storage.
        shards: files of the store.
    """

    core_hours: float
    hours: float
    bound: str
    read_bytes: float
    store_bytes: float
    network_gbit: float
    write_mb: float
    shards: int


def decode_ms(source: Source, seconds: float, frames: int) -> float:
    """Processor milliseconds to decode ``frames`` evenly spaced frames of one video.

    Every frame costs the way from the key frame before it, on average half of the gap between two; together no more
    than the whole video.
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
) -> Plan:
    """Cores, hours and bytes.

    Args:
        videos: number of them.
        source: of which kind.
        seconds: mean length.
        frames: T, stored per video.
        quality: of JPEG, a key of :data:`KIB_PER_FRAME`; frames are 298 x 224.
        cores: that decode.
        network_gbit: gigabits per second from where the videos are, for all cores together.
        write_mb: megabytes per second that the store's storage takes, for all cores together.
        shard_videos: videos per shard.
    """
    each_ms = decode_ms(source, seconds, frames) + frames * source.ms_per_frame + MS_PER_VIDEO
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
    return Plan(
        core_hours=core_seconds / 3600,
        hours=takes[bound] / 3600,
        bound=bound,
        read_bytes=read,
        store_bytes=stored,
        network_gbit=rate * read / videos * 8 / 1e9,
        write_mb=rate * stored / videos / 1e6,
        shards=shards,
    )
