"""The search index of a task: one vector per video, with what an answer shows of it.

An index is a folder: ``index.json`` (what it was made from), ``vectors.parquet`` and the two files of the adapter,
whose text side answers the queries. The backbone is not in it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
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
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method

FORMAT = 1
CARD = "index.json"
VECTORS = "vectors.parquet"


@dataclass(frozen=True)
class Index:
    """Vectors and what is shown with them, a row per video.

    Attributes:
        task: name of the collection.
        adapter_sha256: hash of the adapter that made the vectors.
        vectors: float32[N, D], L2-normalised.
        rows: N mappings with video_id, uri, start_seconds, end_seconds and thumbnail (JPEG bytes).
    """

    task: str
    adapter_sha256: str
    vectors: NDArray[np.float32]
    rows: list[dict[str, Any]]


def build(method: Method, store: FrameStore, *, split: str, adapter_sha256: str, batch_size: int) -> Index:
    """Embeds the decoded videos of a split.

    Args:
        method: the backbone with the adapter in it, on the device to use.
        store: the task's frames.
        split: ``train``, ``val``, ``test`` or ``all``.
        adapter_sha256: of the adapter in ``method``.
        batch_size: videos per forward pass.

    Raises:
        DataError: the split holds no decoded video.
    """
    ids = store.ids(split)
    if not ids:
        raise DataError("no decoded video to index", where=store.uri, found=split)
    # Every video is read once, so decoded frames are not worth keeping.
    reader = FrameReader(store, method.backbone.resize, method.frames, cache_mib=0)
    vectors = encode_videos(method.eval(), reader, ids, batch_size).numpy()
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


def write(index: Index, folder: Path, adapter: Path, made_from: dict[str, Any]) -> dict[str, Any]:
    """Publishes an index with the adapter it needs; returns its card.

    Args:
        index: to write.
        folder: replaced whole, at once.
        adapter: folder of the adapter that made the vectors.
        made_from: further fields of the card, such as the store's fingerprint and the registered version.
    """
    card = {
        "format": FORMAT,
        "task": index.task,
        "videos": len(index.rows),
        "dimension": index.vectors.shape[1],
        "adapter_sha256": index.adapter_sha256,
        "backbone": read_card(adapter).backbone.to_dict(),
        **made_from,
    }
    with tempfile.TemporaryDirectory() as scratch:
        aside = Path(scratch)
        for name in FILES:
            shutil.copyfile(adapter / name, aside / name)
        pq.write_table(_table(index), aside / VECTORS, compression="none")
        (aside / CARD).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        storage.publish_folder(aside, folder)
    return card


def read(folder: Path) -> Index:
    """Reads an index.

    Raises:
        DataError: none there, one of another format, or a damaged one.
    """
    card = read_index_card(folder)
    try:
        table = pq.read_table(folder / VECTORS)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"damaged: {error}", where=folder / VECTORS, cure="run the index stage again") from None
    if table.num_rows != card["videos"]:
        raise DataError("damaged", where=folder / VECTORS, found=table.num_rows, expected=f"{card['videos']} rows")
    flat = table["vector"].combine_chunks().flatten().to_numpy()
    vectors = flat.reshape(table.num_rows, card["dimension"])
    return Index(card["task"], card["adapter_sha256"], vectors, table.drop_columns(["vector"]).to_pylist())


def read_index_card(folder: Path) -> dict[str, Any]:
    """The card of an index.

    Raises:
        DataError: no index there, or one of another format.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            "no search index", where=folder, cure=f"python pipelines/index.py --task {folder.name} (or dvc repro)"
        ) from None
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=folder / CARD) from None
    if card.get("format") != FORMAT:
        raise DataError("index of another format", where=folder / CARD, found=card.get("format"), expected=FORMAT)
    return dict(card)


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
