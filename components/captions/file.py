"""The captions of a task's training frames: one Parquet file, and a card with the frame store that they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic.dataclasses import dataclass

from components import storage
from components.config import STRICT, Count
from components.errors import DataError, one_line
from components.provenance import sha256_file
from components.records import read_record, write_record

CARD = "card.json"
FILE = "captions.parquet"
SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("captions", pa.list_(pa.field("item", pa.string(), nullable=False)), nullable=False),
    ]
)
CURE = "run pipelines/captions.py for this task"

# The captions of each video's frames, in the order of the stored frames, by video id.
FrameCaptions = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, config=STRICT)
class CaptionCard:
    """The content of card.json.

    Args:
        task: The name of the task.
        store: The fingerprint of the frame store.
        source: What made the captions: the captioner's name, options and the hash of its code, or a table's name and
            hash.
        videos: The number of videos.
        captions: The number of captions.
        bytes: The length of the Parquet file.
        sha256: Its hash.
        fingerprint: The hex SHA-256 over ``store`` and ``sha256``.
    """

    task: str
    store: str
    source: dict[str, Any]
    videos: Count
    captions: Count
    bytes: Count
    sha256: str
    fingerprint: str


@plain_dataclass(frozen=True)
class CaptionFile:
    """Captions that have been read, and their card."""

    card: CaptionCard
    of_video: FrameCaptions


def uses_captions(raw: Mapping[str, Any]) -> bool:
    """Whether an entry of ``methods``, as in params.yaml, trains with captions of frames."""
    return raw.get("captions") is True


def add_captions(
    folder: Path, task: str, store: str, source: Mapping[str, Any], captions: FrameCaptions
) -> CaptionCard:
    """Writes captions and their card into a folder. Equal captions give equal bytes.

    Args:
        folder: A folder that exists.
        task: The name of the task.
        store: The fingerprint of the frame store.
        source: As in :class:`CaptionCard`.
        captions: At least one video with a caption per frame.
    """
    write_table(folder / FILE, captions)
    sha256 = sha256_file(folder / FILE)
    card = CaptionCard(
        task=task,
        store=store,
        source=dict(source),
        videos=len(captions),
        captions=sum(map(len, captions.values())),
        bytes=(folder / FILE).stat().st_size,
        sha256=sha256,
        fingerprint=_fingerprint(store, sha256),
    )
    write_record(folder / CARD, card)
    return card


def read_captions(folder: Path) -> CaptionFile:
    """Reads the captions of a task.

    Raises:
        DataError: They are missing or damaged.
    """
    card = read_record(folder / CARD, CaptionCard, cure=CURE)
    path = folder / FILE
    if not path.is_file():
        raise DataError("missing", where=path, cure=CURE)
    if card.sha256 != sha256_file(path) or card.fingerprint != _fingerprint(card.store, card.sha256):
        raise DataError("captions are not those of their card", where=path, cure=CURE)
    return CaptionFile(card, read_table(path))


def write_table(path: Path, captions: FrameCaptions) -> None:
    """Writes captions as a Parquet file, which appears whole."""
    columns = {"video_id": list(captions), "captions": [list(texts) for texts in captions.values()]}
    with storage.atomic_file(path) as aside:
        pq.write_table(pa.table(columns, schema=SCHEMA), aside, compression="zstd", write_statistics=False)


def read_table(path: Path) -> FrameCaptions:
    """Reads what :func:`write_table` wrote.

    Raises:
        DataError: The file is damaged.
    """
    try:
        table = pq.read_table(path, schema=SCHEMA).to_pydict()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError("damaged", where=path, found=one_line(error), cure=CURE) from None
    return {name: tuple(texts) for name, texts in zip(table["video_id"], table["captions"], strict=True)}


def _fingerprint(store: str, sha256: str) -> str:
    return hashlib.sha256(f"{store}\0{sha256}".encode()).hexdigest()
