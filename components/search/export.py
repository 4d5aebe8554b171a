"""The vectors of a task as files that other programs read: videos, their frames and their texts.

A folder holds ``videos``, ``frames`` and ``texts``, each as ``.parquet`` (ids next to a column ``vector``) and as
``.npy`` (float32, the same rows in the same order), and ``card.json``. On request it also holds both encoders as ONNX
(:mod:`components.search.encoders`). All vectors are L2-normalised, so a dot product
is a cosine. Rows are written a few hundred videos at a time, so the memory does not grow with the collection.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from components import storage
from components.adapters.card import read_card
from components.backbones.spec import BackboneSpec
from components.config import STRICT
from components.errors import DataError
from components.evaluation.encode import encode_both, encode_texts
from components.frames.store import FrameStore
from components.manifest import Manifest, first_few
from components.methods.base import Method
from components.methods.reader import reader_for
from components.precision import Precision
from components.records import read_record, write_record
from components.search.encoders import Encoder, check_installed, write_encoders
from components.search.single import check_single
from components.search.source import Source
from components.video import Video

FORMAT = 1
CARD = "card.json"

# Videos or texts that are encoded and written at a time.
ROWS = 256

VIDEOS = {
    "video_id": pa.string(),
    "uri": pa.string(),
    "split": pa.string(),
    "start_seconds": pa.float64(),
    "end_seconds": pa.float64(),
    "window_of": pa.string(),
}
FRAMES = {"video_id": pa.string(), "frame": pa.int32(), "seconds": pa.float64()}
TEXTS = {"video_id": pa.string(), "kind": pa.string(), "language": pa.string(), "text": pa.string()}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExportCard:
    """The content of card.json.

    Attributes:
        format: :data:`FORMAT`.
        task: Name of the collection.
        split: Which of its videos.
        method: The adapter's entry in params.yaml.
        version: The adapter's version in the registry, None if it is not registered.
        adapter_sha256: Hash of the adapter's weights file.
        backbone: The backbone of the adapter.
        store: Fingerprint of the frame store.
        precision: What the towers computed in.
        dimension: The length of a vector.
        videos, frames, texts: The number of rows of each table.
        failed: Videos of the split that could not be decoded. They have no row in ``videos``.
        encoders: The ONNX files of ``video`` and ``text``. Empty if they were not asked for.
    """

    format: int
    task: str
    split: str
    method: str
    version: str | None
    adapter_sha256: str
    backbone: BackboneSpec
    store: str
    precision: Precision
    dimension: int
    videos: int
    frames: int
    texts: int
    failed: int
    encoders: dict[str, Encoder] = field(default_factory=dict)


def read_export_card(folder: Path) -> ExportCard:
    """Reads the card of an export.

    Raises:
        DataError: There is none, or it is damaged.
    """
    return read_record(folder / CARD, ExportCard, cure="run pipelines/export.py")


def check_target(folder: Path) -> None:
    """Refuses a folder that holds anything but an earlier export, since an export replaces it whole.

    Raises:
        DataError: It is a file, or holds other files.
    """
    if not folder.exists() or (folder.is_dir() and (not any(folder.iterdir()) or _is_export(folder))):
        return
    raise DataError(
        "not an export and not empty, so nothing is written there",
        where=folder,
        found=first_few(sorted(file.name for file in folder.iterdir())) if folder.is_dir() else "a file",
        expected="a folder that does not exist, is empty, or has an earlier export",
        cure="name another folder with --to",
    )


def _is_export(folder: Path) -> bool:
    """Whether a folder holds an export. A frame store has a card of the same name."""
    try:
        read_export_card(folder)
    except DataError:
        return False
    return True


def export(
    method: Method,
    store: FrameStore,
    source: Source,
    folder: Path,
    *,
    split: str,
    batch_size: int,
    precision: Precision = "float32",
    encoders: bool = False,
) -> ExportCard:
    """Writes the vectors of a split. The folder appears whole, in place of an earlier export.

    Args:
        method: The backbone with the adapter, on the device to use.
        store: The task's frames.
        source: The adapter.
        folder: Where to write.
        split: ``train``, ``val``, ``test`` or ``all``.
        batch_size: Videos or texts per forward pass.
        precision: What the towers compute in.
        encoders: Whether to write both encoders as ONNX. They compute in float32.

    Raises:
        DataError: The folder holds something else, no video was decoded, the videos have more frames than the adapter
            takes, a video has several vectors, or a vector is not finite.
        ConfigError: The device does not compute in this precision, or ONNX is not installed.
    """
    check_target(folder)
    if encoders:
        check_installed()
    ids = store.ids(split)
    if not ids:
        raise DataError("no decoded video to export", where=store.uri, found=split)
    check_single(method, store.manifest.task)
    texts = texts_of(store.manifest, split)
    width, times = method.eval().spec.embed_dim, store.times(ids)
    card = ExportCard(
        format=FORMAT,
        task=store.manifest.task,
        split=split,
        method=source.method,
        version=source.version,
        adapter_sha256=source.sha256,
        backbone=read_card(source.folder).backbone,
        store=store.fingerprint,
        precision=precision,
        dimension=width,
        videos=len(ids),
        frames=sum(len(shown) for shown, _ in times.values()),
        texts=len(texts),
        failed=len(store.failed(split)),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
        aside = Path(scratch)
        _write_videos(aside, method, store, times, card, batch_size)
        with _table(aside / "texts", TEXTS, card.texts, width) as write:
            for start in range(0, len(texts), ROWS):
                some = texts[start : start + ROWS]
                write(some, encode_texts(method, [row["text"] for row in some], batch_size, precision).numpy())
        if encoders:
            card = dataclasses.replace(card, encoders=write_encoders(method.cpu(), aside))
        write_record(aside / CARD, card)
        storage.publish_folder(aside, folder)
    return card


def texts_of(manifest: Manifest, split: str) -> list[dict[str, Any]]:
    """A row for each caption of a split, and for each moment's text that is not also a caption of its video."""
    rows = []
    for video in manifest.split(split):
        languages = video.languages or (None,) * len(video.captions)
        for caption, language in zip(video.captions, languages, strict=True):
            rows.append({"video_id": video.video_id, "kind": "caption", "language": language, "text": caption})
        others = dict.fromkeys(moment.text for moment in video.moments if moment.text not in video.captions)
        rows += [{"video_id": video.video_id, "kind": "moment", "language": None, "text": text} for text in others]
    return rows


# When the frames of each video are shown, and the length of its file (FrameStore.times).
Times = Mapping[str, tuple[tuple[float, ...], float]]

Write = Callable[[Sequence[Mapping[str, Any]], NDArray[np.float32]], None]


def _write_videos(
    folder: Path, method: Method, store: FrameStore, times: Times, card: ExportCard, batch_size: int
) -> None:
    """Writes the tables of videos and frames, in the order of ``times``."""
    reader, videos, precision = reader_for(method, store), store.manifest.by_id(), card.precision
    ids = list(times)
    with (
        _table(folder / "videos", VIDEOS, card.videos, card.dimension) as write_videos,
        _table(folder / "frames", FRAMES, card.frames, card.dimension) as write_frames,
    ):
        for start in range(0, len(ids), ROWS):
            some = ids[start : start + ROWS]
            rows = [_video_row(videos[name], times[name][1]) for name in some]
            of_videos, of_frames = encode_both(method, reader, some, batch_size, precision)
            write_videos(rows, of_videos.numpy())
            shown = [{"video_id": n, "frame": k, "seconds": t} for n in some for k, t in enumerate(times[n][0])]
            kept = [each[: len(times[name][0])] for name, each in zip(some, of_frames.numpy(), strict=True)]
            write_frames(shown, np.concatenate(kept))


def _video_row(video: Video, length: float) -> dict[str, Any]:
    fields = {name: value for name, value in video.to_row().items() if name in VIDEOS}
    span = {"start_seconds": video.start_seconds or 0.0, "end_seconds": video.end_in(length)}
    return {**dict.fromkeys(VIDEOS), **fields, **span}


@contextlib.contextmanager
def _table(stem: Path, columns: Mapping[str, pa.DataType], rows: int, width: int) -> Iterator[Write]:
    """Writes ``<stem>.parquet`` and ``<stem>.npy`` with the rows that are given to the function, in their order.

    Args:
        stem: The path without an ending.
        columns: The types of the columns before ``vector``.
        rows: How many rows there will be.
        width: D.
    """
    schema = pa.schema([*columns.items(), ("vector", pa.list_(pa.float32(), width))])
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    with (
        pq.ParquetWriter(stem.with_suffix(".parquet"), schema, compression="none") as parquet,
        stem.with_suffix(".npy").open("wb") as array,
    ):
        np.lib.format.write_array_header_1_0(array, header)

        def write(some: Sequence[Mapping[str, Any]], vectors: NDArray[np.float32]) -> None:
            if bad := [row["video_id"] for row in np.array(some)[~np.isfinite(vectors).all(axis=1)]]:
                raise DataError(
                    f"vectors of {stem.name} are not finite",
                    where=stem.parent,
                    found=first_few(list(dict.fromkeys(bad))),
                    expected="numbers: the adapter's weights or the precision are at fault",
                    cure="train the adapter again, or set evaluation.precision: float32",
                )
            table = {name: pa.array([row[name] for row in some], kind) for name, kind in columns.items()}
            table["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)
            parquet.write_table(pa.table(table, schema=schema))
            array.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())

        yield write
