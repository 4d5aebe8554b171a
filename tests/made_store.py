"""A small frame store without real pictures, written by the code that publishes stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from components.frames import schema
from components.frames.writing import write_shard
from components.ingest.isolation import Recipe
from components.ingest.publish import write_store
from components.ingest.records import DoneShard, LedgerRow, Settings
from components.ingest.shards import flat_ledger, plan_shards
from components.manifest import Manifest, Protocol
from components.provenance import sha256_file
from components.video import Video

SETTINGS = Settings(
    Recipe("m:f", "uniform", 2, 32, 90),
    "decord",
    shard_videos=4,
    row_group_videos=3,
    time_limit_seconds=5.0,
    memory_limit_mib=4096,
)
FAILED = {"train3", "test0"}


def row_of(video_id: str) -> dict[str, object]:
    return {
        "video_id": video_id,
        "frames": [f"{video_id} {k}".encode() for k in range(2)],
        "timestamps_seconds": [0.5, 1.5],
        "frame_indices": [6, 18],
        "width": 42,
        "height": 32,
        "source_width": 64,
        "source_height": 48,
        "source_frames": 24,
        "fps": 12.0,
        "duration_seconds": 2.0,
        "content_sha256": "ab",
        "decoder": "decord 0.6.0",
        "corrupt_frames": None,
    }


def make_store(
    folder: Path,
    settings: Settings = SETTINGS,
    sizes: Mapping[str, int] = MappingProxyType({"train": 10, "val": 2, "test": 5}),
    make_row: Callable[[str], dict[str, object]] = row_of,
) -> Manifest:
    """Writes a store of 10 training, 2 validation and 5 test videos, or other sizes. Two of them failed."""
    names = [(f"{split}{number}", split) for split, size in sizes.items() for number in range(size)]
    videos = tuple(Video(name, f"v/{name}.mp4", split, (f"a {name}",)) for name, split in reversed(names))
    manifest = Manifest("small", Protocol("msrvtt", "9k", "one", "val"), videos)
    records = []
    for shard in plan_shards(manifest, settings.shard_videos):
        rows: list[dict[str, object]] = []
        ledger: list[LedgerRow] = []
        for video in shard.videos:
            failed = video.video_id in FAILED
            ledger.append(
                LedgerRow(
                    video_id=video.video_id,
                    split=video.split,
                    status=schema.FAILED if failed else schema.DECODED,
                    reason="timeout" if failed else "",
                    detail="5 s" if failed else "",
                    decoder="" if failed else "decord 0.6.0",
                    corrupt_frames=None,
                    frames=0 if failed else 2,
                    shard=shard.number,
                    row=None if failed else len(rows),
                )
            )
            if not failed:
                rows.append(make_row(video.video_id))
        file = folder / schema.shard_name(shard.number)
        write_shard(file, rows, settings.row_group_videos)
        found = file.stat()
        records.append(
            DoneShard(
                *(shard.number, sha256_file(file), found.st_size, found.st_mtime_ns, ledger, []),
                tried=len(ledger),
                limits=settings.limits(),
                seconds=0.1,
            )
        )
    write_store(folder, manifest, settings, records, flat_ledger(records, manifest))
    return manifest
