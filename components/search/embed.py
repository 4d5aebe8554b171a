"""Rows to segments of vectors, in blocks that survive a kill, by this process or by actors of Ray Data.

A block is a fixed run of rows, embedded in fixed batches with a fixed number of threads. So its bytes do not depend on
who embeds it, or on how many do.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import pickle  # nosec B403
import shutil
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from components.cluster import RaySettings, quiet_data, ray_session
from components.errors import DataError, ReelTuneError, one_disk_fault
from components.evaluation.encode import encode_both, encode_videos
from components.frames.store import FrameStore, StoredVideo
from components.manifest import first_few
from components.methods.base import Method
from components.methods.reader import reader_for
from components.precision import Precision
from components.records import read_record, write_record
from components.samecode import on_worker
from components.search import segment_writer, segments
from components.search.card import SegmentCard
from components.search.rows import Row, content_of, table_of
from components.search.segments import Segment

logger = logging.getLogger(__name__)

# Batches per block. A kill loses at most this work of each process.
BATCHES = 4

# With `execution.index_workers: 0`, this process embeds what takes it less than this. Ray takes a good part of it to
# start.
ALONE_SECONDS = 60.0

# Videos whose embedding is timed.
TIMED = 2

CARD = "segment.json"


@dataclass(frozen=True)
class Encoding:
    """How vectors are computed.

    Attributes:
        batch_size: Videos per forward pass.
        precision: What the towers compute in.
        frame_vectors: Whether the vector of each frame is kept too.
        threads: Threads of PyTorch on a CPU. 0 leaves them as they are.
    """

    batch_size: int
    precision: Precision = "float32"
    frame_vectors: bool = False
    threads: int = 0


class Embedder:
    """Embeds blocks of rows in this process.

    Args:
        method: The backbone with the adapter, on the device to use.
        store: The task's frames.
        encoding: How vectors are computed.
    """

    def __init__(self, method: Method, store: FrameStore, encoding: Encoding) -> None:
        self.method = method.eval()
        self.encoding = encoding
        self._store = _Noted(store)
        self._reader = reader_for(method, self._store)

    def embed(self, rows: Sequence[Row], folder: Path) -> SegmentCard:
        """Embeds rows and writes them as a segment.

        Raises:
            DataError: A vector is not finite, or frames are damaged.
            ConfigError: The device does not compute in this precision.
            OSError: The disk does not take it.
        """
        ids = [row.video.video_id for row in rows]
        arguments = self.method, self._reader, ids, self.encoding.batch_size, self.encoding.precision
        with _threads(self.encoding.threads):
            if self.encoding.frame_vectors:
                vectors, features = encode_both(*arguments)
            else:
                vectors, features = encode_videos(*arguments), None
        found = vectors.numpy().astype(np.float32, copy=False)
        check_finite(found, ids, f"vectors of {self._store.manifest.task}")
        noted = [self._store.noted.pop(name) for name in ids]
        frames = None
        if features is not None:
            times = [np.array(stored.timestamps_seconds, dtype=np.float64) for stored in noted]
            frames = [(shown, each[: len(shown)].numpy()) for shown, each in zip(times, features, strict=True)]
        pairs = list(zip(rows, noted, strict=True))
        table = table_of(rows, [row.video.end_in(stored.duration_seconds) for row, stored in pairs])
        contents = [content_of(stored, row) for row, stored in pairs]
        for name, values in ((segments.CONTENT, contents), (segments.PLACE, [row.place for row in rows])):
            table = table.append_column(segments.HIDDEN.field(name), pa.array(values, pa.binary(16)))
        thumbnails = [stored.frames[len(stored.frames) // 2] for stored in noted]
        return segment_writer.write_rows(folder, found, table, thumbnails, frames)


def embed_blocks(
    rows: Sequence[Row], folder: Path, encoding: Encoding, key: str, run: Callable[[Sequence[Block]], None]
) -> list[Segment]:
    """Embeds rows block by block. Blocks that an earlier run finished are kept.

    Args:
        rows: The rows.
        folder: Where blocks go.
        encoding: How vectors are computed.
        key: Hash of the adapter, and of what else decides a vector.
        run: Makes the blocks that are missing.

    Returns:
        The open blocks, in the order of the rows.
    """
    step = encoding.batch_size * BATCHES
    blocks = [Block(tuple(rows[start : start + step]), folder, encoding, key) for start in range(0, len(rows), step)]
    missing = [block for block in blocks if block.opened() is None]
    if missing:
        if len(missing) < len(blocks):
            logger.info("%d of %d blocks are left to embed", len(missing), len(blocks))
        run(missing)
    return [block.expect() for block in blocks]


class Block:
    """A run of rows that is embedded as a whole, and its folder.

    Args:
        rows: The rows.
        parent: The folder of all blocks.
        encoding: How vectors are computed.
        key: Hash of the adapter, and of what else decides a vector.
    """

    def __init__(self, rows: tuple[Row, ...], parent: Path, encoding: Encoding, key: str) -> None:
        self.rows = rows
        digest = hashlib.sha256(f"{key} {encoding}".encode())
        for row in rows:
            digest.update(row.video.video_id.encode() + b"\0" + row.place + row.meta)
        self.folder = parent / digest.hexdigest()[:16]

    def make(self, embedder: Embedder) -> None:
        """Embeds the block, if another process has not."""
        if self.opened() is not None:
            return
        temporary = self.folder.with_name(f".{self.folder.name}-{os.getpid()}")
        for left in (temporary, self.folder):
            shutil.rmtree(left, ignore_errors=True)
        card = embedder.embed(self.rows, temporary)
        try:
            write_record(temporary / CARD, card)
            os.replace(temporary, self.folder)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def opened(self) -> Segment | None:
        """The block, None if it must be made: it is missing or damaged."""
        try:
            card = read_record(self.folder / CARD, SegmentCard)
            return segments.open_segment(self.folder, card, "", whole=True)
        except DataError:
            return None

    def expect(self) -> Segment:
        """The block after it was made.

        Raises:
            DataError: It is not there.
        """
        if (found := self.opened()) is None:
            cure = "make sure that all machines share this folder, and run it again"
            raise DataError("a block of vectors is not what its process wrote", where=self.folder, cure=cure)
        return found


class Opener(Hashable, Protocol):
    """Opens an embedder in any process. It can be sent to another one."""

    def __call__(self) -> Embedder: ...


def run_alone(embedder: Embedder, blocks: Sequence[Block]) -> None:
    """Makes blocks in this process."""
    for block in blocks:
        block.make(embedder)


def run_on_ray(opener: Opener, blocks: Sequence[Block], workers: int, ray: RaySettings, gpus: bool) -> None:
    """Makes blocks by a pool of actors, with a GPU each or with a CPU each.

    Args:
        opener: Opens the embedder of an actor.
        blocks: The blocks.
        workers: Actors. 0 takes as many as the cluster has room for.
        ray: The size of the local cluster.
        gpus: Whether actors take GPUs.

    Raises:
        ReelTuneError: What an actor met, or the cluster has no room.
    """
    with ray_session(ray, log_to_driver=False):
        import ray.data as data
        from ray import cluster_resources

        quiet_data()
        room = int(cluster_resources().get("GPU" if gpus else "CPU", 0))
        pool = max(1, min(workers or room, room, len(blocks)))
        needs: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": 1}
        rows = [{"block": pickle.dumps(block)} for block in blocks]
        made = data.from_items(rows, override_num_blocks=len(rows)).map(
            _actor(opener), compute=data.ActorPoolStrategy(size=pool), **needs
        )
        for answer in made.iter_rows():
            if answer["error"]:
                raise ReelTuneError(answer["error"])


def _actor(opener: Opener) -> type:
    """The class of an actor. It is nested, so that it is sent as code, and checks the code of its process first."""
    make = on_worker(make_block)

    class Actor:
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"error": make(opener, row["block"])}

    return Actor


def make_block(opener: Opener, pickled: bytes) -> str:
    """Makes a block in an actor. The block comes from the driver.

    Returns:
        What went wrong, else "". Ray would wrap an error into a hundred lines of its own.
    """
    block: Block = pickle.loads(pickled)  # nosec B301
    try:
        with disk_faults(block.folder):
            block.make(_kept(opener))
    except ReelTuneError as error:
        return str(error)
    return ""


@functools.lru_cache(maxsize=1)
def _kept(opener: Opener) -> Embedder:
    """This actor's embedder. It is kept for all blocks."""
    return opener()


def seconds_per_row(embedder: Embedder, rows: Sequence[Row], folder: Path) -> float:
    """About how long one row takes in this process."""
    rows = rows[:TIMED]
    for _ in range(2):  # the first one also starts what is slow to start
        started = time.perf_counter()
        shutil.rmtree(folder, ignore_errors=True)
        embedder.embed(rows, folder)
        seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return seconds / len(rows)


def disk_faults(where: Path) -> contextlib.AbstractContextManager[None]:
    """Turns a full or faulty disk into one error. The index that was there goes on answering."""
    cure = "the index is as it was. Mend that, and the same command continues from the last finished block"
    return one_disk_fault(where, cure)


def check_finite(vectors: np.ndarray, ids: Sequence[str], where: str) -> None:
    """Refuses vectors that would get the score NaN for every text.

    Raises:
        DataError: A vector is not finite.
    """
    bad = [ids[int(row)] for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1))]
    if bad:
        raise DataError(
            f"{len(bad)} of {len(ids)} vectors are not finite",
            where=where,
            found=first_few(bad),
            expected="numbers: the adapter's weights or the precision are at fault",
            cure="train the adapter again, or set evaluation.precision: float32, then run the index stage",
        )


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Noted(FrameStore):
    """A store that keeps each video that is read, for the hash of its frames and the picture that is shown."""

    def __init__(self, store: FrameStore) -> None:
        self.__dict__.update(store.__dict__)  # the store is open and checked
        self.noted: dict[str, StoredVideo] = {}

    def _read(self, ids: list[str]) -> Iterator[StoredVideo]:
        for stored in super()._read(ids):
            self.noted[stored.video_id] = stored
            yield stored
