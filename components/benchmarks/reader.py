"""A benchmark's reader: what it opens, what it makes of it, and the counts under which the benchmark is known."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components import storage
from components.benchmarks import BENCHMARKS
from components.errors import DataError
from components.manifest import SPLITS, Manifest, first_few
from components.task import TaskSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """The counts under which a benchmark is known.

    Args:
        ids: what the ids of its test videos look like. Files of the same form without such an id are another
            collection, whose counts are not compared.
        videos: count per split; without ``val`` the training count includes videos held out for validation.
        captions: count per split where it is known.
    """

    ids: re.Pattern[str]
    videos: Mapping[str, int]
    captions: Mapping[str, int] = field(default_factory=dict)

    def concerns(self, manifest: Manifest) -> bool:
        """Whether a test video has an id of the benchmark."""
        return any(self.ids.fullmatch(video.video_id) for video in manifest.split("test"))

    def differences(self, manifest: Manifest) -> list[str]:
        """What differs between the user's copy and the published counts, a clause for each."""
        if not self.concerns(manifest):
            return []
        found = {split: manifest.split(split) for split in SPLITS}
        if "val" not in self.videos and len(found["train"]) != self.videos["train"]:
            found["train"] = found["train"] + found["val"]
        clauses = []
        for split in SPLITS:
            counts = {"videos": len(found[split]), "captions": sum(len(video.captions) for video in found[split])}
            for what, published in (("videos", self.videos), ("captions", self.captions)):
                if counts[what] != published.get(split, counts[what]):
                    clauses.append(f"{split} has {counts[what]:,} {what}, published are {published[split]:,}")
        return clauses


@dataclass(frozen=True)
class AnnotationFile:
    """A file that a reader wants.

    Args:
        names: possible names below the collection's folder, one of which is enough.
        needed: False where the reader has a rule without it.
    """

    names: tuple[str, ...]
    needed: bool = True


@dataclass(frozen=True)
class Reader:
    """How a benchmark is read; the entries of :data:`components.benchmarks.BENCHMARKS`.

    Args:
        read: (task name, folder or URI of the collection, options from params.yaml) to the manifest, without a look
            at which videos are there.
        files: options to the annotation files that ``read`` opens.
        published: options to the published counts, None where there are none.
    """

    read: Callable[[str, str, dict[str, Any]], Manifest]
    files: Callable[[dict[str, Any]], tuple[AnnotationFile, ...]]
    published: Callable[[dict[str, Any]], Published | None] = lambda options: None


def find_reader(task_name: str, task: TaskSettings) -> Reader:
    """The reader of a task.

    Raises:
        ConfigError: unknown benchmark.
    """
    return BENCHMARKS.get(task.benchmark, where=f"params.yaml tasks.{task_name}.benchmark")


def read_annotations(task_name: str, task: TaskSettings, root: Path) -> Manifest:
    """Reads and checks the annotations of a task; uris are absolute, and videos need not be there.

    Raises:
        ConfigError: unknown benchmark or option.
        DataError: annotations are missing, damaged or contradict each other.
    """
    reader = find_reader(task_name, task)
    manifest = reader.read(task_name, storage.resolve(root, task.root), dict(task.options))
    manifest.check()
    return manifest


def read_manifest(task_name: str, task: TaskSettings, root: Path) -> Manifest:
    """Reads and checks a task; counts that differ from the published ones are a warning.

    Args:
        task_name: key of the task in params.yaml.
        task: its settings.
        root: folder that a relative ``task.root`` and the manifest's uris start from.

    Raises:
        ConfigError: unknown benchmark or option.
        DataError: annotations or videos are missing, damaged or contradict each other.
    """
    manifest = read_annotations(task_name, task, root)
    published = find_reader(task_name, task).published(dict(task.options))
    for difference in published.differences(manifest) if published is not None else ():
        log.warning("task %s: %s; figures of this copy are not the benchmark's", task_name, difference)
    require_some_file(storage.resolve(root, task.root), manifest)
    videos = tuple(dataclasses.replace(video, uri=storage.relative(root, video.uri)) for video in manifest.videos)
    return dataclasses.replace(manifest, videos=videos)


def present(uris: Iterable[str]) -> set[str]:
    """Those of ``uris`` at which a file lies; every folder is listed once."""
    wanted = set(uris)
    folders = {storage.split(uri)[0] for uri in wanted}
    return wanted & {storage.join(folder, name) for folder in folders for name in storage.list_files(folder)}


def require_some_file(folder: str, manifest: Manifest) -> None:
    """Refuses a collection none of whose videos is there; single ones that are missing fail in the ledger.

    Raises:
        DataError: not one file belongs to a listed video.
    """
    uris = sorted(video.uri for video in manifest.videos)
    if not present(uris):
        folders = sorted({storage.split(uri)[0] for uri in uris})
        raise DataError(
            "no listed video has a file",
            where=folder,
            found=first_few([name for place in folders for name in storage.list_files(place)]) or "no file",
            expected="files such as " + first_few(uris, 3),
            cure="put the videos there, or link the folder that holds them",
        )
