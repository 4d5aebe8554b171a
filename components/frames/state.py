"""The working state of an ingest: finished shards that survive a kill, apart from the published store.

.reeltune/ingest/<task>/lock
.reeltune/ingest/<task>/<hash of manifest, settings and library versions>/
    store/   shard-00000.parquet ...: what will be published
    done/    00000.json ...: written after its shard: ledger rows, hash of the shard, identity of the source files
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from components import storage
from components.benchmarks.base import Manifest
from components.errors import DataError
from components.frames import schema
from components.frames.shards import DoneShard, Settings, Shard, source_identity
from components.provenance import sha256_file

# Their versions may change pixels or bytes, so shards made with others are made again.
LIBRARIES = ("decord", "decord2", "av", "torchcodec", "pillow", "simplejpeg", "pyarrow")


def library_versions() -> dict[str, str]:
    """Installed versions of :data:`LIBRARIES`."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


class WorkingState:
    """The folder of one ingest.

    Args:
        root: the project's folder.
        manifest: what is ingested.
        settings: how.
    """

    def __init__(self, root: Path, manifest: Manifest, settings: Settings) -> None:
        key = json.dumps([schema.FORMAT, manifest.fingerprint(), asdict(settings), library_versions()])
        self.root = root
        self.task_folder = root / ".reeltune" / "ingest" / manifest.task
        self.folder = self.task_folder / hashlib.sha256(key.encode()).hexdigest()[:16]
        self.store = self.folder / "store"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the task's lock, which the kernel frees however the process ends.

        Raises:
            DataError: another process is ingesting this task.
        """
        self.store.mkdir(parents=True, exist_ok=True)
        with (self.task_folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError("another ingest of this task is running", where=self.task_folder) from None
            yield

    def finish(self, done: DoneShard) -> None:
        """Records that a shard, already in its place, is whole."""
        storage.write_bytes(self._record(done.number), json.dumps(asdict(done)).encode())

    def done(self, shard: Shard) -> DoneShard | None:
        """The record of a finished shard; None if it must be made (again): not there, damaged, or a source changed."""
        record, file = self._record(shard.number), self.store / schema.shard_name(shard.number)
        if not record.exists() or not file.exists():
            return None
        try:
            done = DoneShard(**json.loads(record.read_text()))
        except (ValueError, TypeError):  # damaged, or written by another release
            return None
        sources = [source_identity(self.root, video) for video in shard.videos]
        return done if done.sources == sources and done.sha256 == sha256_file(file) else None

    def drop_others(self) -> None:
        """Removes what earlier settings or manifests of this task left behind."""
        for folder in self.task_folder.iterdir():
            if folder.is_dir() and folder != self.folder:
                shutil.rmtree(folder)

    def _record(self, number: int) -> Path:
        return self.folder / "done" / f"{number:05d}.json"
