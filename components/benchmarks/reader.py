"""Reads a task with the reader of its benchmark."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from components import storage
from components.benchmarks import BENCHMARKS
from components.benchmarks.files import present
from components.benchmarks.interface import Reader
from components.errors import DataError
from components.manifest import Manifest, first_few
from components.task import TaskSettings

log = logging.getLogger(__name__)


def find_reader(task_name: str, task: TaskSettings) -> Reader:
    """The reader of a task's benchmark.

    Raises:
        ConfigError: The benchmark is unknown or not installed.
    """
    return BENCHMARKS.get(task.benchmark, where=f"params.yaml tasks.{task_name}.benchmark")


def read_annotations(task_name: str, task: TaskSettings, root: Path) -> Manifest:
    """Reads and checks the annotations of a task. Uris are absolute, and the videos need not exist.

    Raises:
        ConfigError: The benchmark or an option is unknown.
        DataError: Annotations are missing, damaged or contradictory.
    """
    reader = find_reader(task_name, task)
    manifest = reader.read(task_name, storage.resolve(root, task.root), task.options)
    manifest.check()
    return manifest


def read_manifest(task_name: str, task: TaskSettings, root: Path) -> Manifest:
    """Reads and checks a task. Counts that differ from the published ones are logged as a warning.

    Args:
        task_name: The key of the task in params.yaml.
        task: The settings of the task.
        root: The folder that a relative ``task.root`` and the manifest's uris start from.

    Raises:
        ConfigError: The benchmark or an option is unknown.
        DataError: Annotations are missing, damaged or contradictory, or there is no video file at all.
    """
    manifest = read_annotations(task_name, task, root)
    published = find_reader(task_name, task).published(task.options)
    for difference in published.differences(manifest) if published is not None else ():
        log.warning("task %s: %s; results on this copy are not results on the benchmark", task_name, difference)
    require_some_file(storage.resolve(root, task.root), manifest)
    videos = tuple(dataclasses.replace(video, uri=storage.relative(root, video.uri)) for video in manifest.videos)
    return dataclasses.replace(manifest, videos=videos)


def require_some_file(folder: str, manifest: Manifest) -> None:
    """Refuses a collection without any video file. A single missing file is a failed row of the ledger instead.

    Raises:
        DataError: No listed video has a file.
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
