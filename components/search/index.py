"""The search index of a task: one vector per video, with what an answer shows of it.

An index is a folder. It contains ``index.json`` (what it was made from), ``vectors.parquet`` and the two files of the
adapter, whose text side answers the queries. It does not contain the backbone. An index of the test split also has the
gallery for the report, in ``gallery.json`` and ``gallery.parquet``.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components import storage
from components.adapters.card import FILES, read_card
from components.errors import DataError
from components.evaluation.encode import encode_videos
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method
from components.search.records import CARD, FORMAT, Gallery, IndexCard, Pictures, Source, read_index_card, write_gallery

VECTORS = "vectors.parquet"


class IndexedVideo(TypedDict):
    """What an answer shows of a video.

    Attributes:
        video_id: Its id in the collection.
        uri: The file's path or URI. A path under the project's root is relative to it.
        start_seconds: Where the video starts in its file.
        end_seconds: Where the video ends in its file.
        thumbnail: JPEG bytes of the middle frame.
    """

    video_id: str
    uri: str
    start_seconds: float
    end_seconds: float
    thumbnail: bytes


@dataclass(frozen=True)
class Index:
    """Vectors and what is shown with them.

    Attributes:
        task: Key of the task in params.yaml.
        adapter_sha256: Hash of the adapter that made the vectors.
        vectors: float32[N, D], L2-normalised.
        rows: N videos, in the order of the vectors.
    """

    task: str
    adapter_sha256: str
    vectors: NDArray[np.float32]
    rows: list[IndexedVideo]


def build(method: Method, store: FrameStore, *, split: str, adapter_sha256: str, batch_size: int) -> Index:
    """Embeds the decoded videos of a split.

    Args:
        method: The backbone with the adapter, on the device to use.
        store: The task's frames.
        split: ``train``, ``val``, ``test`` or ``all``.
        adapter_sha256: Hash of the adapter in ``method``.
        batch_size: Videos per forward pass.

    Raises:
        DataError: The split has no decoded video.
    """
    ids = store.ids(split)
    if not ids:
        raise DataError("no decoded video to index", where=store.uri, found=split)
    # Every video is read once, so a cache would not be used.
    reader = FrameReader(store, method.backbone.resize, method.frames, cache_mib=0)
    vectors = encode_videos(method.eval(), reader, ids, batch_size).numpy()
    videos = store.manifest.by_id()
    rows = []
    for stored in store.read(ids):
        video = videos[stored.video_id]
        end = stored.duration_seconds if video.end_seconds is None else video.end_seconds
        rows.append(
            IndexedVideo(
                video_id=stored.video_id,
                uri=video.uri,
                start_seconds=video.start_seconds or 0.0,
                end_seconds=end,
                thumbnail=stored.frames[len(stored.frames) // 2],
            )
        )
    return Index(store.manifest.task, adapter_sha256, vectors.astype(np.float32), rows)


def write(
    index: Index, folder: Path, adapter: Path, source: Source, gallery: tuple[Gallery, Pictures] | None = None
) -> IndexCard:
    """Publishes an index with the adapter that it needs.

    Args:
        index: The index.
        folder: Where to write. An existing folder is replaced as a whole.
        adapter: The folder of the adapter that made the vectors.
        source: What the index was made from.
        gallery: The gallery for the report, None if there is none.

    Returns:
        The card of the index.
    """
    card = IndexCard(
        **asdict(source),
        format=FORMAT,
        task=index.task,
        videos=len(index.rows),
        dimension=index.vectors.shape[1],
        adapter_sha256=index.adapter_sha256,
        backbone=read_card(adapter).backbone,
    )
    with tempfile.TemporaryDirectory() as scratch:
        aside = Path(scratch)
        for name in FILES:
            shutil.copyfile(adapter / name, aside / name)
        pq.write_table(_table(index), aside / VECTORS, compression="none")
        if gallery is not None:
            write_gallery(aside, *gallery)
        storage.write_bytes(aside / CARD, card.to_json().encode())
        storage.publish_folder(aside, folder)
    return card


def read(folder: Path) -> Index:
    """Reads an index.

    Raises:
        DataError: There is no index, or it is damaged or has another format.
    """
    card = read_index_card(folder)
    try:
        table = pq.read_table(folder / VECTORS)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"damaged: {error}", where=folder / VECTORS, cure="run the index stage again") from None
    if table.num_rows != card.videos:
        raise DataError("damaged", where=folder / VECTORS, found=table.num_rows, expected=f"{card.videos} rows")
    flat = table["vector"].combine_chunks().flatten().to_numpy()
    vectors = flat.reshape(table.num_rows, card.dimension)
    return Index(card.task, card.adapter_sha256, vectors, table.drop_columns(["vector"]).to_pylist())


def _table(index: Index) -> pa.Table:
    size = index.vectors.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(index.vectors.reshape(-1)), size)
    schema = pa.schema(
        [
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("start_seconds", pa.float64(), nullable=False),
            pa.field("end_seconds", pa.float64(), nullable=False),
            pa.field("thumbnail", pa.binary(), nullable=False),
        ]
    )
    return pa.Table.from_pylist(index.rows, schema=schema).append_column("vector", vectors)
