"""A frame store of smooth random pictures, for benchmarks that read one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from components.benchmarks.base import Manifest, Protocol, Video
from components.frames import schema
from components.frames.jpeg import encode_frames
from components.frames.store import write_shard, write_table

SHARD, GROUP = 128, 32


def write_store(folder: Path, videos: int, frames: int, size: int, quality: int = 95, chroma: int = 444) -> None:
    """``videos`` test videos of ``frames`` JPEGs, ``size`` pixels square, with one caption each."""
    made = [
        Video(f"video{number:06d}", f"video{number:06d}.mp4", "test", (f"somebody does thing number {number}",))
        for number in range(videos)
    ]
    manifest = Manifest("synthetic", Protocol("msrvtt", "synthetic", "one caption per video", "listed"), tuple(made))
    rng = np.random.default_rng(0)
    shards = []
    for number, start in enumerate(range(0, videos, SHARD)):
        rows = [_row(video, rng, frames, size, quality, chroma) for video in made[start : start + SHARD]]
        file = folder / schema.shard_name(number)
        write_shard(file, rows, GROUP)
        shards.append({"name": file.name, "bytes": file.stat().st_size})
    ledger = [_ledger_row(video, number, frames) for number, video in enumerate(made)]
    write_table(folder / schema.MANIFEST, manifest.to_table())
    write_table(folder / schema.LEDGER, pa.Table.from_pylist(ledger, schema=schema.LEDGER_SCHEMA))
    settings = {"row_group_videos": GROUP, "frames": frames, "size": size, "quality": quality, "chroma": chroma}
    card = {
        "format": schema.FORMAT,
        "task": "synthetic",
        "settings": settings,
        "shards": shards,
        "fingerprint": manifest.fingerprint(),
    }
    (folder / schema.CARD).write_text(json.dumps(card), encoding="utf-8")


def _row(video: Video, rng: np.random.Generator, frames: int, size: int, quality: int, chroma: int) -> dict[str, Any]:
    known = {
        "video_id": video.video_id,
        "frames": encode_frames(np.stack([_picture(rng, size) for _ in range(frames)]), quality, chroma),
        "timestamps_seconds": [float(index) for index in range(frames)],
        "frame_indices": list(range(frames)),
        "width": size,
        "height": size,
        "source_width": size,
        "source_height": size,
        "source_frames": frames,
        "fps": 1.0,
        "duration_seconds": float(frames),
        "content_sha256": "0" * 64,
        "decoder": "none",
    }
    return {field.name: known.get(field.name) for field in schema.FRAMES_SCHEMA}


def _picture(rng: np.random.Generator, size: int) -> np.ndarray:
    """uint8[size, size, 3]: about as many bytes as a frame of a real video."""
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
