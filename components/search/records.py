"""What an index folder says of itself: its card, and the gallery for the report. Reading needs no torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic.dataclasses import dataclass

from components.backbones.spec import BackboneSpec
from components.config import STRICT
from components.errors import DataError
from components.records import make_record, read_record, read_tree, write_record

FORMAT = 1
CARD = "index.json"
GALLERY = "gallery.json"
PICTURES = "gallery.parquet"

# The splits of an index that has the videos of the test split.
WITH_TEST = ("test", "all")

# Shown frames of each video of the gallery, as JPEG bytes in time order.
Pictures = dict[str, list[bytes]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Source:
    """What an index was made from.

    Attributes:
        version: The number of the registered version, None for an adapter that is not registered.
        method: Key of the method in params.yaml.
        seed: The training's seed, None for an adapter that is not registered.
        split: The split whose videos are in the index.
        store: Fingerprint of the frame store.
    """

    version: str | None
    method: str
    seed: int | None
    split: str
    store: str

    @property
    def adapter(self) -> str:
        """``<method>-<seed>``."""
        return f"{self.method}-{self.seed}"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IndexCard(Source):
    """The content of index.json.

    Attributes:
        format: Version of this format, :data:`FORMAT`.
        task: Key of the task in params.yaml.
        videos: The number of videos.
        dimension: D, the length of a vector.
        adapter_sha256: Hash of the weights file of the adapter.
        backbone: The backbone that the adapter is bound to.
    """

    format: int
    task: str
    videos: int
    dimension: int
    adapter_sha256: str
    backbone: BackboneSpec

    def to_json(self) -> str:
        """The text of index.json."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GalleryHit:
    """A video that was found for a query.

    Attributes:
        rank: Its position, from 1.
        video_id: Its id in the collection.
        score: The cosine of text and video.
    """

    rank: int
    video_id: str
    score: float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GalleryQuery:
    """A caption of the test split and its answers.

    Attributes:
        text: The caption.
        video_id: The right video.
        subsets: Named parts of the test split that the video belongs to.
        rank: The right video's rank in the scorecard of the index's adapter.
        best: The best videos.
        right: The right video, None if it is among the best.
    """

    text: str
    video_id: str
    subsets: tuple[str, ...]
    rank: float
    best: tuple[GalleryHit, ...]
    right: GalleryHit | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Gallery:
    """The content of gallery.json. The frames are in gallery.parquet, once per video.

    Attributes:
        adapter: ``<method>-<seed>`` of the adapter that answered.
        queries: The chosen queries.
    """

    adapter: str
    queries: tuple[GalleryQuery, ...]


def read_index_card(folder: Path) -> IndexCard:
    """Reads the card of an index.

    Raises:
        DataError: There is no index, or it is damaged or has another format.
    """
    path = folder / CARD
    if not path.exists():
        raise DataError("no search index", where=folder, cure=_cure(folder))
    tree = read_tree(path)
    # The format is checked first: each field of another format would be reported as a fault.
    if tree.get("format") != FORMAT:
        raise DataError(
            "index of another format", where=path, found=tree.get("format"), expected=FORMAT, cure=_cure(folder)
        )
    return make_record(tree, IndexCard, path)


def write_gallery(folder: Path, gallery: Gallery, pictures: Pictures) -> None:
    """Writes gallery.json and gallery.parquet into an index folder."""
    write_record(folder / GALLERY, gallery)
    columns = {"video_id": list(pictures), "frames": list(pictures.values())}
    schema = pa.schema([pa.field("video_id", pa.string()), pa.field("frames", pa.list_(pa.binary()))])
    # JPEG gains nothing from compression.
    pq.write_table(pa.table(columns, schema=schema), folder / PICTURES, compression="none")


def read_gallery(folder: Path) -> tuple[Gallery, Pictures]:
    """Reads the gallery of an index.

    Raises:
        DataError: The index has no gallery, or the gallery is damaged.
    """
    path = folder / GALLERY
    if not path.exists():
        raise DataError(
            "no gallery",
            where=folder,
            expected="an index of the test split, made with an evaluated champion",
            cure=_cure(folder),
        )
    gallery = read_record(path, Gallery)
    try:
        rows = pq.read_table(folder / PICTURES, columns=["video_id", "frames"]).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"damaged: {error}", where=folder / PICTURES, cure=_cure(folder)) from None
    return gallery, {row["video_id"]: row["frames"] for row in rows}


def _cure(folder: Path) -> str:
    return f"python pipelines/index.py --task {folder.name} (or dvc repro)"
