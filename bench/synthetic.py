"""A frame store of random or given pictures, for benchmarks that read one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from components.frames import schema
from components.frames.card import StoreCard, StoredShard, StoreSettings
from components.frames.jpeg import encode_frames
from components.frames.writing import write_shard, write_table
from components.manifest import Manifest, Protocol
from components.provenance import sha256_file
from components.video import Video

SHARD, GROUP = 128, 32


# Gives uint8[T, H, W, 3] for the number of a video.
Pictures = Callable[[int], NDArray[np.uint8]]


def write_store(
    folder: Path,
    videos: int,
    pictures: Pictures,
    quality: int = 95,
    chroma: int = 444,
    train: float = 0.0,
    group: int = GROUP,
) -> None:
    """Writes videos of equally many frames, with one caption each.

    Args:
        folder: An empty folder.
        videos: The number of videos.
        pictures: Gives the frames of each video.
        quality: The JPEGs' quality.
        chroma: The JPEGs' chroma, 444 or 420.
        train: The fraction of the videos in the train split. The others are test videos.
        group: Videos per row group.
    """
    made = [
        Video(
            f"video{number:06d}",
            f"video{number:06d}.mp4",
            "train" if number < round(train * videos) else "test",
            (f"somebody does thing number {number}",),
        )
        for number in range(videos)
    ]
    manifest = Manifest("synthetic", Protocol("msrvtt", "synthetic", "one caption per video", "listed"), tuple(made))
    frames, height, width, _ = pictures(0).shape
    shards = []
    for number, start in enumerate(range(0, videos, SHARD)):
        rows = [
            _row(video, pictures(start + place), quality, chroma)
            for place, video in enumerate(made[start : start + SHARD])
        ]
        file = folder / schema.shard_name(number)
        write_shard(file, rows, group)
        shards.append(StoredShard(file.name, file.stat().st_size, sha256_file(file), len(rows)))
    ledger = [_ledger_row(video, number, frames) for number, video in enumerate(made)]
    write_table(folder / schema.MANIFEST, manifest.to_table())
    write_table(folder / schema.LEDGER, pa.Table.from_pylist(ledger, schema=schema.LEDGER_SCHEMA))
    card = StoreCard(
        format=schema.FORMAT,
        task="synthetic",
        benchmark="msrvtt",
        fingerprint=manifest.fingerprint(),
        settings=StoreSettings(
            decoder="none",
            sampling="uniform",
            frames=frames,
            size=min(height, width),
            quality=quality,
            chroma=chroma,
            shard_videos=SHARD,
            row_group_videos=group,
            time_limit_seconds=30.0,
            memory_limit_mib=4096,
        ),
        frames="JPEG",
        videos={},
        failed={},
        bytes=sum(shard.bytes for shard in shards),
        bytes_per_video=0,
        versions={},
        shards=tuple(shards),
    )
    (folder / schema.CARD).write_text(card.to_json(), encoding="utf-8")


def _row(video: Video, pictures: NDArray[np.uint8], quality: int, chroma: int) -> dict[str, Any]:
    frames, height, width, _ = pictures.shape
    known = {
        "video_id": video.video_id,
        "frames": encode_frames(pictures, quality, chroma),
        "timestamps_seconds": [float(index) for index in range(frames)],
        "frame_indices": list(range(frames)),
        "width": width,
        "height": height,
        "source_width": width,
        "source_height": height,
        "source_frames": frames,
        "fps": 1.0,
        "duration_seconds": float(frames),
        "content_sha256": "0" * 64,
        "decoder": "none",
    }
    return {field.name: known.get(field.name) for field in schema.FRAMES_SCHEMA}


def smooth(frames: int, size: int) -> Pictures:
    """Square pictures of noise over smooth colours. They take about as many bytes as frames of a real video."""

    def of(number: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng(number)
        return np.stack([_picture(rng, size) for _ in range(frames)])

    return of


def few(pictures: Pictures, different: int) -> Pictures:
    """The pictures of the first videos, repeated: drawing them takes longer than decoding them."""
    made = [pictures(number) for number in range(different)]
    return lambda number: made[number % different]


def _picture(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    coarse = Image.fromarray(rng.integers(0, 256, (size // 10, size // 10, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
    return np.clip(smooth + rng.integers(-4, 5, smooth.shape), 0, 255).astype(np.uint8)


def _ledger_row(video: Video, number: int, frames: int) -> dict[str, Any]:
    known = {
        "video_id": video.video_id,
        "split": video.split,
        "status": schema.DECODED,
        "reason": "",
        "detail": "",
        "decoder": "none",
        "frames": frames,
        "shard": number // SHARD,
        "row": number % SHARD,
    }
    return {field.name: known.get(field.name) for field in schema.LEDGER_SCHEMA}
