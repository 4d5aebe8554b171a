"""The search index of a task: one vector per video, with what an answer shows of the video.

An index is a folder with ``index.json`` (what it was made from), ``vectors.parquet``, the two files of the adapter, and
``gallery.json`` (test queries for the report). The text side of the adapter answers the queries. The folder does not
contain the backbone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components import storage
from components.adapters.card import FILES, read_card
from components.errors import DataError
from components.evaluation.encode import encode_videos
from components.frames.store import FrameStore
from components.manifest import first_few
from components.methods.base import Method
from components.methods.reader import reader_for
from components.precision import Precision
from components.records import make_record, write_record
from components.search.card import CARD, FORMAT, GALLERY, Gallery, IndexCard, read_index_card, write_index_card

VECTORS = "vectors.parquet"


@dataclass(frozen=True)
class Index:
    """Vectors and what is shown with them, one row per video.

    Attributes:
        task: Name of the collection.
        adapter_sha256: Hash of the weights file of the adapter that made the vectors.
        vectors: float32[N, D], L2-normalised.
        rows: N mappings with video_id, uri, start_seconds, end_seconds and thumbnail (JPEG bytes).
    """

    task: str
    adapter_sha256: str
    vectors: NDArray[np.float32]
    rows: list[dict[str, Any]]


def build(
    method: Method,
    store: FrameStore,
    *,
    split: str,
    adapter_sha256: str,
    batch_size: int,
    precision: Precision = "float32",
) -> Index:
    """Embeds the decoded videos of a split.

    Args:
        method: The backbone with the adapter, on the device to use.
        store: The task's frames.
        split: ``train``, ``val``, ``test`` or ``all``.
        adapter_sha256: Hash of the weights file of the adapter in ``method``.
        batch_size: Videos per forward pass.
        precision: What the towers compute in.

    Raises:
        DataError: The split has no decoded video, the videos have more frames than the adapter takes, or a vector is
            not finite.
        ConfigError: The device does not compute in this precision.
    """
    if store.card.settings.frames > method.frames:
        task = store.manifest.task
        raise DataError(
            f"the frame store has more frames per video than the adapter takes ({method.frames})",
            where=store.uri,
            found=store.card.settings.frames,
            expected=f"at most {method.frames}",
            cure=f"set tasks.{task}.frames: {method.frames} and run python pipelines/ingest.py --task {task}, "
            "or choose another adapter",
        )
    if method.video_width != method.spec.embed_dim:
        raise DataError(
            "the method keeps a vector per frame and word, and an index holds one per video",
            where=f"adapter of {store.manifest.task}",
            found=method.name,
            expected="a method without late",
            cure="choose another adapter, or train the method without late to search with it",
        )
    ids = store.ids(split)
    if not ids:
        raise DataError("no decoded video to index", where=store.uri, found=split)
    vectors = encode_videos(method.eval(), reader_for(method, store), ids, batch_size, precision).numpy()
    _check_finite(vectors, ids, f"vectors of {store.manifest.task}")
    videos = store.manifest.by_id()
    rows = []
    for stored in store.read(ids):
        video = videos[stored.video_id]
        end = stored.duration_seconds if video.end_seconds is None else video.end_seconds
        rows.append(
            {
                "video_id": stored.video_id,
                "uri": video.uri,
                "start_seconds": video.start_seconds or 0.0,
                "end_seconds": end,
                "thumbnail": stored.frames[len(stored.frames) // 2],
            }
        )
    return Index(store.manifest.task, adapter_sha256, vectors.astype(np.float32), rows)


def write(
    index: Index, folder: Path, adapter: Path, made_from: Mapping[str, object], gallery: Gallery | None = None
) -> IndexCard:
    """Publishes an index with the adapter that it needs. The folder is replaced whole, at once.

    Args:
        index: The index.
        folder: Where to publish it.
        adapter: Folder of the adapter that made the vectors.
        made_from: Further fields of :class:`IndexCard`, such as ``version`` and ``store``.
        gallery: Queries for the report, None if the index cannot answer test queries.

    Returns:
        The card of the index.
    """
    fields = {
        "format": FORMAT,
        "task": index.task,
        "videos": len(index.rows),
        "dimension": index.vectors.shape[1],
        "adapter_sha256": index.adapter_sha256,
        "backbone": read_card(adapter).backbone.to_dict(),
        **made_from,
    }
    card = make_record(fields, IndexCard, folder / CARD)
    with tempfile.TemporaryDirectory() as scratch:
        aside = Path(scratch)
        for name in FILES:
            shutil.copyfile(adapter / name, aside / name)
        pq.write_table(_table(index), aside / VECTORS, compression="none")
        write_index_card(aside, card)
        if gallery is not None:
            write_record(aside / GALLERY, gallery)
        storage.publish_folder(aside, folder)
    return card


def read(folder: Path) -> Index:
    """Reads an index.

    Raises:
        DataError: There is no index, it has another format, or it is damaged.
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
    _check_finite(vectors, table["video_id"].to_pylist(), str(folder / VECTORS))
    return Index(card.task, card.adapter_sha256, vectors, table.drop_columns(["vector"]).to_pylist())


def _check_finite(vectors: NDArray[np.float32], ids: Sequence[str], where: str) -> None:
    """Refuse vectors that would get the score NaN for every text."""
    bad = [ids[int(row)] for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1))]
    if bad:
        raise DataError(
            f"{len(bad)} of {len(ids)} vectors are not finite",
            where=where,
            found=first_few(bad),
            expected="numbers: the adapter's weights or the precision are at fault",
            cure="train the adapter again, or set evaluation.precision: float32, then run the index stage",
        )


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
