"""A miniature project for tests: a random mini backbone, a frame store of coloured squares, and settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file

from components.backbones import mini
from components.backbones.load import create, model_config
from components.frames import schema
from components.frames.card import StoreCard, StoredShard, StoreSettings
from components.frames.jpeg import encode_frames
from components.frames.writing import write_shard, write_table
from components.manifest import Manifest, Protocol
from components.params import Params, load_params
from components.provenance import sha256_file
from components.training.settings import ExecutionSettings, TrainingSettings
from components.video import Video

TASK = "tiny"
FRAMES = 4
LR = 1e-3
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "white": (240, 240, 240)}
MOTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}


def write_project(root: Path, train: int = 24, val: int = 8, test: int = 8, failed_test: int = 0) -> None:
    """Writes params.yaml, backbone weights and the frame store of one task under ``root``."""
    write_params(root)
    write_backbone(root)
    write_store(root, videos(train, val, test), failed_test)


def write_params(root: Path) -> None:
    """The project's own params.yaml, cut down to one small task."""
    tree = YAML(typ="safe").load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
    task = {"benchmark": "msrvtt", "root": "data/tiny", "frames": FRAMES, "words": 16, "options": {}}
    tree["tasks"] = {TASK: task}
    small = {"epochs": 2, "batch_size": 8, "batching": "hard", "hard_group": 4, "validation_every": 1}
    tree["training"].update(small)
    # There are fewer kinds of videos than videos, so captions repeat.
    tree["training"]["equal_captions"] = "negatives"
    tree["execution"]["cache_mib"] = 1
    for settings in tree["methods"].values():
        if "lr" in settings:
            settings["lr"] = LR
    tree["evaluation"]["batch_size"] = 5
    tree["ray"]["object_store_mib"] = 128
    with (root / "params.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(tree, stream)


def params(root: Path, *overrides: str) -> Params:
    """The settings of a project made by :func:`write_project`."""
    return load_params(root / "params.yaml", overrides)


def write_backbone(root: Path) -> None:
    """Writes random weights of the mini CLIP where params.yaml expects the trained ones."""
    raw, _ = model_config(mini.NAME, root)
    torch.manual_seed(0)
    clip = create(mini.NAME, raw)
    (root / "models").mkdir(parents=True, exist_ok=True)
    save_file(clip.state_dict(), root / "models" / "mini.safetensors")


def videos(train: int, val: int, test: int) -> tuple[Video, ...]:
    """Videos of every colour in every motion, in turn.

    Training videos have two captions, the others one. Every fourth test video is in the subset ``late``.
    """
    made = []
    kinds = [(colour, motion) for colour in COLOURS for motion in MOTIONS]
    for split, count in (("train", train), ("val", val), ("test", test)):
        for number in range(count):
            colour, motion = kinds[number % len(kinds)]
            captions = (f"a {colour} square moves {motion}", f"{motion} goes a {colour} square")
            made.append(
                Video(
                    f"{split}{number:03d}",
                    f"data/tiny/videos/{split}{number:03d}.mp4",
                    split,
                    captions if split == "train" else captions[:1],
                    subsets=("late",) if split == "test" and number % 4 == 3 else (),
                )
            )
    return tuple(made)


def draw(video: Video, frames: int) -> np.ndarray:
    """Draws the caption's moving square. The video's id sets where it starts.

    Returns:
        uint8[frames, 32, 32, 3].
    """
    words = video.captions[0].split()
    step = MOTIONS[words[-1]]
    rng = np.random.default_rng(list(video.video_id.encode()))
    start = rng.integers(8, 14, 2) + np.array([0 if s >= 0 else 12 for s in step])
    pictures = rng.integers(0, 20, (frames, 32, 32, 3)).astype(np.uint8)
    for index, picture in enumerate(pictures):
        x, y = start + np.array(step) * 4 * index
        picture[max(0, y - 4) : y + 4, max(0, x - 4) : x + 4] = COLOURS[words[1]]
    return pictures


def write_store(root: Path, made: tuple[Video, ...], failed_test: int = 0, task: str = TASK) -> None:
    """Writes a frame store as ingest publishes it. Every fifth video is short, and the last test videos have failed."""
    folder = root / "outputs" / "frames" / task
    folder.mkdir(parents=True)
    manifest = Manifest(task, Protocol("msrvtt", "tiny", "one caption per test video", "listed"), made)
    lost = [video.video_id for video in made if video.split == "test"][::-1][:failed_test]
    rows: list[dict[str, object]] = []
    ledger: list[dict[str, object]] = []
    for number, video in enumerate(made):
        ok = video.video_id not in lost
        count = FRAMES - 1 if number % 5 == 4 else FRAMES
        ledger.append(
            {
                "video_id": video.video_id,
                "split": video.split,
                "status": schema.DECODED if ok else schema.FAILED,
                "reason": "" if ok else "unreadable",
                "detail": "",
                "decoder": "test",
                "frames": count if ok else 0,
                "shard": 0,
                "row": len(rows) if ok else None,
            }
        )
        if ok:
            rows.append(_row(video, count))
    write_shard(folder / schema.shard_name(0), rows, 8)
    write_table(folder / schema.MANIFEST, manifest.to_table())
    import pyarrow as pa

    write_table(folder / schema.LEDGER, pa.Table.from_pylist(ledger, schema=schema.LEDGER_SCHEMA))
    shard = folder / schema.shard_name(0)
    card = StoreCard(
        format=schema.FORMAT,
        task=task,
        benchmark="msrvtt",
        fingerprint=manifest.fingerprint(),
        settings=StoreSettings(
            decoder="test",
            sampling="uniform",
            frames=FRAMES,
            size=32,
            quality=95,
            chroma=444,
            shard_videos=len(made),
            row_group_videos=8,
            time_limit_seconds=30.0,
            memory_limit_mib=4096,
        ),
        frames="JPEG",
        videos={},
        failed={},
        bytes=shard.stat().st_size,
        bytes_per_video=0,
        versions={},
        shards=(StoredShard(shard.name, shard.stat().st_size, sha256_file(shard), len(rows)),),
    )
    (folder / schema.CARD).write_text(card.to_json(), encoding="utf-8")


def _row(video: Video, count: int) -> dict[str, object]:
    return {
        "video_id": video.video_id,
        "frames": encode_frames(draw(video, count), 95),
        "timestamps_seconds": [index / 4 for index in range(count)],
        "frame_indices": list(range(count)),
        "width": 32,
        "height": 32,
        "source_width": 32,
        "source_height": 32,
        "source_frames": count,
        "fps": 4.0,
        "duration_seconds": count / 4,
        "content_sha256": "0" * 64,
        "decoder": "test",
    }


def training(root: Path, **changes: Any) -> TrainingSettings:
    """The training block with some fields changed."""
    return dataclasses.replace(params(root).training, **changes)


def execution(root: Path, **changes: Any) -> ExecutionSettings:
    """The execution block with some fields changed."""
    return dataclasses.replace(params(root).execution, **changes)
