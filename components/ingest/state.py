"""The working state of an ingest: finished shards that survive a kill, apart from the published store.

.reeltune/ingest/<task>/lock
.reeltune/ingest/<task>/events.jsonl: what happened, see :mod:`components.ingest.progress`
.reeltune/ingest/<task>/<hash of what rows depend on>-<hash of manifest, all settings and library versions>/
    store/      shard-00000.parquet ...: what will be published
    done/       00000.json ...: written after its shard: ledger rows, hash of the shard, origin of every video
    stale/      store/ and done/ of shards of which a source changed: most of their rows are used again
    progress/   00000.jsonl ...: of shards that are being made
    earlier.sqlite: rows of earlier runs
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from components import storage
from components.errors import DataError
from components.frames import schema
from components.ingest import sources
from components.ingest.shards import DoneShard, Settings, Shard
from components.layout import Layout
from components.manifest import Manifest
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


def task_folder(root: Path, task_name: str) -> Path:
    """Where all that concerns the ingests of a task lies."""
    return Layout(root).ingest_work(task_name)


class WorkingState:
    """The folder of one ingest.

    Args:
        root: the project's folder.
        manifest: what is ingested.
        settings: how.
    """

    def __init__(self, root: Path, manifest: Manifest, settings: Settings) -> None:
        self._rows = _hash([schema.FORMAT, settings.row_key(), library_versions()])
        whole = _hash([schema.FORMAT, manifest.fingerprint(), asdict(settings), library_versions()])
        self.root = root
        self.task_folder = task_folder(root, manifest.task)
        self.folder = self.task_folder / f"{self._rows}-{whole}"
        self.store = self.folder / "store"
        self.index = self.folder / "earlier.sqlite"

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
        storage.write_bytes(_record(self.folder, done.number), json.dumps(asdict(done)).encode())

    def done(self, shard: Shard, identities: Mapping[str, sources.Identity | None] | None = None) -> DoneShard | None:
        """The record of a finished shard; None if it must be made (again): not there, damaged, or a source changed.

        Args:
            shard: which.
            identities: of the source files by their resolved location; looked up if not given.
        """
        if (done := _read(self.folder, shard.number)) is None:
            return None
        places = [storage.resolve(self.root, video.uri) for video in shard.videos]
        known = sources.identities(places) if identities is None else identities
        now = [None if (found := known[place]) is None else list(found) for place in places]
        return done if now == [origin["identity"] for origin in done.origins] else None

    def set_aside(self, shards: Iterable[Shard]) -> None:
        """Moves shards that must be made again to where nothing is written while their rows are read."""
        for number in (shard.number for shard in shards):
            if _read(self.folder, number) is not None:
                for place in (_shard, _record):
                    target = place(self.folder / "stale", number)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(place(self.folder, number), target)

    def earlier(self) -> Iterator[tuple[Path, DoneShard]]:
        """Files and records of all whole shards, of this or another manifest, whose rows are made as this run's are."""
        for folder in sorted(self.task_folder.glob(f"{self._rows}-*")):
            for place in (folder, folder / "stale"):
                for record in sorted((place / "done").glob("[!.]*.json")):
                    if (done := _read(place, int(record.stem))) is not None:
                        yield _shard(place, done.number), done

    def start_anew(self) -> None:
        """Forgets all shards of the task, whatever they were made from."""
        self._drop(self.task_folder.iterdir())
        self.store.mkdir(parents=True)

    def drop_others(self) -> None:
        """Removes what earlier settings or manifests of this task left behind."""
        self._drop(path for path in self.task_folder.iterdir() if path != self.folder)
        self._drop(self.folder / name for name in ("stale", "progress"))
        self.index.unlink(missing_ok=True)

    def progress_file(self, number: int) -> Path:
        """Where the task of a shard notes each video."""
        return self.folder / "progress" / f"{number:05d}.jsonl"

    @staticmethod
    def _drop(paths: Iterable[Path]) -> None:
        for path in list(paths):
            if path.is_dir():
                shutil.rmtree(path)


def _hash(content: list[object]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _record(folder: Path, number: int) -> Path:
    return folder / "done" / f"{number:05d}.json"


def _shard(folder: Path, number: int) -> Path:
    return folder / "store" / schema.shard_name(number)


def _read(folder: Path, number: int) -> DoneShard | None:
    """The record of a shard whose file is as it was written; None if either is not there or damaged.

    A file of the recorded length and time is taken for what it was; another one is read.
    """
    try:
        done = DoneShard(**json.loads(_record(folder, number).read_text()))
        found = _shard(folder, number).stat()
    except (FileNotFoundError, ValueError, TypeError):  # ValueError, TypeError: damaged, or written by another release
        return None
    if (found.st_size, found.st_mtime_ns) != (done.bytes, done.mtime_ns):
        return done if sha256_file(_shard(folder, number)) == done.sha256 else None
    return done
