"""The records in an index folder: ``index.json`` and ``gallery.json``. Reading them needs no torch.

``index.json`` is the version of an index. It names the files that belong to it and is replaced by one rename, so a
reader sees one version or the other.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pydantic.dataclasses import dataclass

from components import storage
from components.backbones.spec import BackboneSpec
from components.config import STRICT
from components.errors import DataError
from components.records import make_record, read_record, read_tree

FORMAT = 2
CARD = "index.json"
GALLERY = "gallery.json"


@dataclass(frozen=True, config=STRICT)
class FileCard:
    """A file of an index, which is never changed.

    Attributes:
        bytes: Its length.
        sha256: Hex hash of its content.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True, config=STRICT)
class SegmentCard:
    """A segment: rows that were added together.

    Attributes:
        name: Its folder in ``segments/``, a hash of the content.
        rows: The number of its rows, with those that were removed.
        files: Its files by name.
        removed: First and last row of each run of rows that are gone, in order.
    """

    name: str
    rows: int
    files: dict[str, FileCard]
    removed: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, config=STRICT)
class NearCard:
    """An approximate index, for collections that are too large for an exact search.

    Attributes:
        name: Its file in the index folder.
        file: Length and hash of the file.
        segments: The segments that it covers, in the order of its rows. Rows of other segments are searched exactly.
        rows: The number of its rows, with those that were removed since.
    """

    name: str
    file: FileCard
    segments: tuple[str, ...]
    rows: int


@dataclass(frozen=True, config=STRICT)
class IndexCard:
    """The content of index.json: what an index was made from, and the files that it consists of.

    Attributes:
        format: Version of this format, :data:`FORMAT`.
        task: Name of the collection.
        videos: The number of rows, without those that were removed.
        dimension: The length of a vector.
        adapter_sha256: Hash of the weights file of the adapter that made the vectors.
        backbone: The backbone of that adapter.
        version: The adapter's version in the registry, None if it is not registered.
        method: The adapter's entry in params.yaml.
        seed: The seed of its training, None if it is not registered.
        split: The indexed videos: ``train``, ``val``, ``test`` or ``all``.
        store: Fingerprint of the frame store.
        segments: The segments, in the order of their rows.
        encoder: Hash of what else decides a vector: the precision, and the code that encodes. None if it is not known.
        frame_vectors: Whether each frame's vector is kept too.
        near: The approximate index, None if every search is exact.
    """

    format: int
    task: str
    videos: int
    dimension: int
    adapter_sha256: str
    backbone: BackboneSpec
    version: str | None = None
    method: str | None = None
    seed: int | None = None
    split: str | None = None
    store: str | None = None
    segments: tuple[SegmentCard, ...] = ()
    encoder: str | None = None
    frame_vectors: bool = False
    near: NearCard | None = None


@dataclass(frozen=True, config=STRICT)
class ShownHit:
    """One ranked video of a shown query.

    Attributes:
        rank: The position in the list, from 1.
        score: The cosine of text and video.
        video_id: The video's id in the collection.
        span: Start and end, as in ``00:01.5-00:04.0``.
    """

    rank: int
    score: float
    video_id: str
    span: str


@dataclass(frozen=True, config=STRICT)
class ShownQuery:
    """A test caption and its answers.

    Attributes:
        text: The caption.
        video_id: The right video.
        subsets: The named parts of the test set that contain the video.
        best: The best videos, the first one first.
        right: The right video's hit, which may also be among the best.
    """

    text: str
    video_id: str
    subsets: tuple[str, ...]
    best: tuple[ShownHit, ...]
    right: ShownHit


@dataclass(frozen=True, config=STRICT)
class Gallery:
    """The content of gallery.json: test queries with the videos that were found for them.

    Attributes:
        queries: The queries in the order of the page.
        strips: A few frames of each video that a query shows, as base64 of JPEG bytes, in time order.
    """

    queries: tuple[ShownQuery, ...]
    strips: dict[str, tuple[str, ...]]


def read_index_card(folder: Path) -> IndexCard:
    """The card of the index in ``folder``.

    Raises:
        DataError: There is no index, it is damaged, or it has another format.
    """
    path = folder / CARD
    if not path.exists():
        cure = f"python pipelines/index.py --task {folder.name} (or dvc repro)"
        raise DataError("no search index", where=folder, cure=cure)
    tree = read_tree(path)
    if tree.get("format") != FORMAT:
        cure = f"python pipelines/index.py --task {folder.name}"
        raise DataError("index of another format", where=path, found=tree.get("format"), expected=FORMAT, cure=cure)
    return make_record(tree, IndexCard, path)


def write_index_card(folder: Path, card: IndexCard) -> None:
    """Writes index.json."""
    text = json.dumps(asdict(card), sort_keys=True) + "\n"
    storage.write_bytes(folder / CARD, text.encode())


def read_gallery(folder: Path) -> Gallery:
    """The shown queries of the index in ``folder``.

    Raises:
        DataError: The file is missing, as in an index from an earlier release, or it is damaged.
    """
    return read_record(folder / GALLERY, Gallery, cure=f"python pipelines/index.py --task {folder.name}")
