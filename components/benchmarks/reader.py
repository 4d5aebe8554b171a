"""Reads a task with the reader of its benchmark."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from components import storage
from components.benchmarks import BENCHMARKS
from components.benchmarks.interface import Reader
from components.benchmarks.inventory import Inventory, take_stock
from components.benchmarks.listing import shown
from components.errors import ConfigError, DataError
from components.manifest import Manifest, first_few
from components.task import TaskSettings

log = logging.getLogger(__name__)


def find_reader(task_name: str, task: TaskSettings) -> Reader:
    """The reader of a task's benchmark.

    Raises:
        ConfigError: The benchmark is unknown or not installed.
    """
    return BENCHMARKS.get(task.benchmark, where=f"params.yaml tasks.{task_name}.benchmark")


def is_published(task_name: str, task: TaskSettings) -> bool:
    """Whether a task is a published benchmark, with known counts, or somebody's own collection.

    Raises:
        ConfigError: The benchmark or an option is unknown.
    """
    return find_reader(task_name, task).published(task.options) is not None


def read_annotations(task_name: str, task: TaskSettings, root: Path) -> Manifest:
    """Reads and checks the annotations of a task. Uris are absolute, and the videos need not exist.

    Raises:
        ConfigError: The benchmark or an option is unknown, or its protocol prescribes another number of frames.
        DataError: Annotations are missing, damaged or contradictory.
    """
    reader = find_reader(task_name, task)
    if reader.frames not in (None, task.frames):
        raise ConfigError(
            f"the protocol of {task.benchmark} prescribes the number of frames",
            where=f"params.yaml tasks.{task_name}.frames",
            found=task.frames,
            expected=reader.frames,
            cure=f"set it to {reader.frames}: with another number, results are not comparable",
        )
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
        ConfigError: The benchmark or an option is unknown, or the number of frames is not that of its protocol.
        DataError: Annotations are missing, damaged or contradictory, or there is no video file at all.
    """
    manifest = read_annotations(task_name, task, root)
    published = find_reader(task_name, task).published(task.options)
    for difference in published.differences(manifest) if published is not None else ():
        log.warning("task %s: %s; results on this copy are not results on the benchmark", task_name, difference)
    folder = storage.resolve(root, task.root)
    stock = take_stock(folder, manifest)
    if not stock.read:
        raise _no_file(folder, manifest, stock)
    for line in (*manifest.notes, *stock.reasons(), *_missing(stock)):
        log.warning("task %s: %s", task_name, line)
    videos = tuple(dataclasses.replace(video, uri=storage.relative(root, video.uri)) for video in manifest.videos)
    return dataclasses.replace(manifest, videos=videos)


def _missing(stock: Inventory) -> list[str]:
    """The listed videos without a file. Each is a failed row of the ledger."""
    if not stock.missing:
        return []
    names = first_few([shown(uri) for uri in stock.missing])
    return [f"{len(stock.missing):,} listed files are missing: {names}", *stock.hints()]


def _no_file(folder: str, manifest: Manifest, stock: Inventory) -> DataError:
    others = sorted(name for names in stock.left_out.values() for name in names)
    return DataError(
        "no listed video has a file",
        where=folder,
        found=first_few([shown(name) for name in others]) or "no file",
        expected="files such as " + first_few(sorted(video.uri for video in manifest.videos), 3),
        cure="; ".join(["put the videos there, or link the folder that holds them", *stock.hints()[:3]]),
    )
