"""The card of a frame store: settings, counts, shards and fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from components import storage
from components.config import STRICT, Count
from components.errors import DataError
from components.frames import schema
from components.records import make_record, read_tree
from components.task import WindowSettings

Amount = Annotated[int, Field(ge=0)]

# Keys that a card has only if they have a value.
OPTIONAL = ("uri", "names", "windows", "training_fingerprint")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StoreSettings:
    """The settings that a store was made with, under their names in params.yaml.

    Args:
        decoder: The value of ``frames.decoder``.
        sampling: The sampling rule.
        frames: T, the frames sampled per video.
        size: The short side of the stored frames in pixels.
        quality: The JPEG quality.
        chroma: The chroma subsampling of the JPEGs. None in stores made before the setting existed.
        shard_videos: Videos per shard.
        row_group_videos: Videos per row group.
        time_limit_seconds: The time limit for one video.
        memory_limit_mib: The memory limit of the decoding process.
        windows: How long files were cut into windows. None if they were not.
    """

    decoder: str
    sampling: str
    frames: Count
    size: Count
    quality: int
    chroma: int | None = None
    shard_videos: Count
    row_group_videos: Count
    time_limit_seconds: float
    memory_limit_mib: int
    windows: WindowSettings | None = None


@dataclass(frozen=True, config=STRICT)
class StoredShard:
    """One shard file.

    Args:
        name: The file name in the working state, such as ``shard-00000.parquet``.
        bytes: The length of the file.
        sha256: The hex hash of the file.
        videos: The number of decoded videos and windows in it.
    """

    name: str
    bytes: Amount
    sha256: str
    videos: Amount


@dataclass(frozen=True, config=STRICT)
class StoreCard:
    """What ``card.json`` of a frame store says.

    Args:
        format: :data:`components.frames.schema.FORMAT`.
        task: The name of the task.
        benchmark: The name of the benchmark.
        fingerprint: The hex SHA-256 over manifest, settings, ledger and shards.
        settings: The settings that the store was made with.
        frames: How frames are resized and coded, in words.
        videos: The number of videos by split and status, without windows.
        failed: The number of failed videos by reason.
        bytes: The length of all shards.
        bytes_per_video: Their mean length per decoded video.
        versions: The versions of the libraries that made the store.
        shards: All shards, in order.
        uri: The folder or URI of the files. None if they are next to the card.
        names: The name of each file at ``uri``, if it is not the name in the working state.
        windows: The number of windows by split. None without any.
        training_fingerprint: The fingerprint that the store would have without windows and facts, which no training
            reads. None if it has neither.
    """

    format: int
    task: str
    benchmark: str
    fingerprint: str
    settings: StoreSettings
    frames: str
    videos: Mapping[str, Mapping[str, int]]
    failed: Mapping[str, int]
    bytes: int
    bytes_per_video: int
    versions: Mapping[str, str]
    shards: tuple[StoredShard, ...]
    uri: str | None = None
    names: Mapping[str, str] | None = None
    windows: Mapping[str, int] | None = None
    training_fingerprint: str | None = None

    def name_of(self, name: str) -> str:
        """The name that the file ``name`` of the working state has in the published store."""
        return (self.names or {}).get(name, name)

    def to_json(self) -> str:
        """The text of ``card.json``. Equal cards give equal texts."""
        content: dict[str, Any] = asdict(self)
        if self.settings.windows is None:
            del content["settings"]["windows"]
        kept = {key: value for key, value in content.items() if key not in OPTIONAL or value is not None}
        return json.dumps(kept, indent=1) + "\n"


def read_card(uri: str | Path) -> StoreCard:
    """Reads the card of a store.

    Args:
        uri: The folder or URI of the store.

    Raises:
        DataError: There is no store, or it has another format, or the card is damaged.
    """
    where = storage.join(uri, schema.CARD)
    if not storage.exists(where):
        cure = "run pipelines/ingest.py for this task"
        raise DataError("no frame store", where=uri, expected=f"a folder with {schema.CARD}", cure=cure)
    content = read_tree(where)
    if content.get("format") != schema.FORMAT:
        raise DataError(
            "frame store of another format",
            where=where,
            found=content.get("format"),
            expected=schema.FORMAT,
            cure="run pipelines/ingest.py for this task again",
        )
    return make_record(content, StoreCard, where)
