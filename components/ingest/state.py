"""The working state of an ingest: finished shards, which survive a kill, and which are apart from the published store.

.reeltune/ingest/<task>/lock
.reeltune/ingest/<task>/events.jsonl: what happened, see :mod:`components.ingest.events`
.reeltune/ingest/<task>/<hash of what rows depend on>-<hash of manifest, all settings and library versions>/
    store/      shard-00000.parquet ...: what will be published
    done/       00000.json ...: the record of a shard, written after it: ledger rows, hash of the shard, origins
    stale/      store/ and done/ of shards with a changed source, most of whose rows are used again
    progress/   00000.jsonl ...: the logs of unfinished shards
    earlier.sqlite: rows of earlier runs
"""

from __future__ import annotations

import contextlib
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
from components.ingest.records import DoneShard, Identity, Settings, Shard
from components.layout import Layout
from components.liveness import only_one
from components.manifest import Manifest
from components.provenance import sha256_file
from components.records import read_record

# Raised when the same file and settings give another row than before. All shards are then made again, once.
ROWS = 2
# The same for the windows of a file.
WINDOWS = 2

# Another version may change pixels or bytes, so it makes all shards again.
LIBRARIES = ("decord", "decord2", "av", "torchcodec", "pillow", "simplejpeg", "pyarrow")


def library_versions() -> dict[str, str]:
    """Looks up the installed versions of :data:`LIBRARIES`."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


class WorkingState:
    """The folder of one ingest.

    Args:
        root: The project's folder.
        manifest: The videos.
        settings: How they become frames.
    """

    def __init__(self, root: Path, manifest: Manifest, settings: Settings) -> None:
        rules = ROWS if settings.recipe.windows is None else [ROWS, WINDOWS]
        self._rows = _hash([schema.FORMAT, rules, settings.row_key(), library_versions()])
        decides = {**asdict(settings), "recipe": settings.recipe.to_dict()}
        whole = _hash([schema.FORMAT, rules, manifest.fingerprint(), decides, library_versions()])
        self.root = root
        self.task_folder = Layout(root).ingest_work(manifest.task)
        self.folder = self.task_folder / f"{self._rows}-{whole}"
        self.store = self.folder / "store"
        self.index = self.folder / "earlier.sqlite"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the task's lock during a ``with`` block.

        Raises:
            DataError: Another process ingests this task.
        """
        self.store.mkdir(parents=True, exist_ok=True)
        with only_one(self.task_folder, "another ingest of this task is running"):
            yield

    def finish(self, done: DoneShard) -> None:
        """Records that a shard is complete and in its place."""
        content = asdict(done)
        if not done.windows:
            del content["windows"], content["source_sha256"]
        storage.write_bytes(_record(self.folder, done.number), json.dumps(content).encode())

    def done(self, shard: Shard, identities: Mapping[str, Identity | None] | None = None) -> DoneShard | None:
        """Reads the record of a finished shard.

        Args:
            shard: Which shard.
            identities: The source files' identities by resolved location. They are looked up if not given.

        Returns:
            None if the shard must be made: it is missing or damaged, or a source changed.
        """
        if (done := _read(self.folder, shard.number)) is None:
            return None
        places = [storage.resolve(self.root, video.uri) for video in shard.videos]
        known = sources.identities(places) if identities is None else identities
        return done if [known[place] for place in places] == [origin.identity for origin in done.origins] else None

    def made(self, shard: Shard) -> DoneShard | None:
        """Reads the record of a shard that this run made, whatever became of its sources since.

        Returns:
            None if the shard is missing or damaged.
        """
        return _read(self.folder, shard.number)

    def set_aside(self, shards: Iterable[Shard]) -> None:
        """Moves shards that must be made again to ``stale/``, so that their rows can be read meanwhile."""
        for number in (shard.number for shard in shards):
            if _read(self.folder, number) is not None:
                for place in (_shard, _record):
                    target = place(self.folder / "stale", number)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(place(self.folder, number), target)

    def earlier(self) -> Iterator[tuple[Path, DoneShard]]:
        """Yields file and record of all complete shards, of any manifest, with rows that this run would make too."""
        for folder in sorted(self.task_folder.glob(f"{self._rows}-*")):
            for place in (folder, folder / "stale"):
                for record in sorted((place / "done").glob("[!.]*.json")):
                    if (done := _read(place, int(record.stem))) is not None:
                        yield _shard(place, done.number), done

    def reset(self) -> None:
        """Deletes all shards of the task, whatever settings or manifest they were made with."""
        self._drop(self.task_folder.iterdir())
        self.store.mkdir(parents=True)

    def drop_others(self) -> None:
        """Deletes everything that only earlier runs of this task, or the making of shards, needed."""
        self._drop(path for path in self.task_folder.iterdir() if path != self.folder)
        self._drop(self.folder / name for name in ("stale", "progress"))
        self.index.unlink(missing_ok=True)

    def progress_file(self, number: int) -> Path:
        """The log of an unfinished shard."""
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
    """Reads the record of a shard. None if the shard is not what was written, or the record is not readable.

    A file with the recorded length and time is trusted. Any other is read and hashed.
    """
    file = _shard(folder, number)
    if not _record(folder, number).exists() or not file.exists():
        return None
    try:
        done = read_record(_record(folder, number), DoneShard)
    except DataError:  # damaged, or written by another release
        return None
    found = file.stat()
    if (found.st_size, found.st_mtime_ns) != (done.bytes, done.mtime_ns):
        return done if sha256_file(file) == done.sha256 else None
    return done
