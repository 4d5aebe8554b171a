"""Compares what a collection should contain with what it contains, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from components import storage
from components.benchmarks.interface import AnnotationFile, Published
from components.benchmarks.inventory import Inventory, take_stock
from components.benchmarks.listing import shown
from components.benchmarks.reader import find_reader, read_annotations
from components.errors import DataError
from components.manifest import SPLITS, Manifest, first_few
from components.task import TaskSettings


@dataclass(frozen=True)
class SplitCheck:
    """One split of a manifest, compared with the files in the folder.

    Args:
        videos: The number of listed videos.
        captions: The number of their captions.
        missing: The uris of listed videos without a file.
        published: The published number of videos, or None if it is not known.
    """

    videos: int
    captions: int
    missing: tuple[str, ...]
    published: int | None


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Args:
        task: The name of the task.
        folder: The folder of the collection.
        files: Every annotation file and its size in bytes, or None if it does not exist.
        fault: Why the annotations cannot be read, or None if they can.
        splits: The splits by name. Empty if the annotations cannot be read.
        differences: Differences from the published counts, one clause each.
        inventory: Which files were found, read and left out. None if the annotations cannot be read.
        notes: What else there is to say about the annotations, one clause each.
    """

    task: str
    folder: str
    files: tuple[tuple[AnnotationFile, int | None], ...]
    fault: str | None
    splits: Mapping[str, SplitCheck]
    differences: tuple[str, ...]
    inventory: Inventory | None = None
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the annotations can be read and every split that lists videos has a file."""
        listed = [split for split in self.splits.values() if split.videos]
        return self.fault is None and all(len(split.missing) < split.videos for split in listed)

    @property
    def complete(self) -> bool:
        """Whether the collection is usable, no video is missing, and the counts are the published ones."""
        missing = any(split.missing for split in self.splits.values())
        return self.usable and not missing and not self.differences

    def text(self) -> str:
        """The result as text for a terminal."""
        lines = [f"{self.task}: {self.folder}", "annotations"]
        lines += [f"  {_file_line(file, size)}" for file, size in self.files]
        if self.fault is not None:
            return "\n".join([*lines, f"not usable: {self.fault}"])
        lines.append(f"{'split':<6}{'videos':>10}{'there':>10}{'missing':>10}{'captions':>10}{'published':>11}")
        for name, split in self.splits.items():
            known = f"{split.published:,}" if split.published is not None else "-"
            there = split.videos - len(split.missing)
            lines.append(
                f"{name:<6}{split.videos:>10,}{there:>10,}{len(split.missing):>10,}{split.captions:>10,}{known:>11}"
            )
        lines += [
            f"missing in {name}: {first_few([shown(uri) for uri in split.missing], SHOWN)}"
            for name, split in self.splits.items()
            if split.missing
        ]
        if self.inventory is not None:
            lines += [f"  {hint}" for hint in self.inventory.hints()]
            lines += [f"files: {self.inventory.sum()}", *(f"  {reason}" for reason in self.inventory.reasons())]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"differs: {difference}" for difference in self.differences]
        if not self.usable:
            return "\n".join([*lines, f"not usable: {_CURE}"])
        return "\n".join([*lines, f"{'complete' if self.complete else 'usable, not complete'}: {self._taken()}"])

    def _taken(self) -> str:
        left = sum(map(len, self.inventory.left_out.values())) if self.inventory is not None else 0
        return f"ingest takes what is there, but for {left:,} files" if left else "ingest takes what is there"


# So many missing files are named in each split.
SHOWN = 20

_CURE = "a split has no video file; put the videos there, or link the folder that holds them"


def check(task_name: str, task: TaskSettings, root: Path) -> Check:
    """Checks the folder of a task. Annotations that cannot be read are a result and not an error.

    Args:
        task_name: The key of the task in params.yaml.
        task: The settings of the task.
        root: The folder that a relative ``task.root`` starts from.

    Raises:
        ConfigError: The benchmark or an option is unknown.
    """
    reader, folder = find_reader(task_name, task), storage.resolve(root, task.root)
    files = tuple((file, _size(folder, file)) for file in reader.files(task.options))
    try:
        manifest = read_annotations(task_name, task, root)
    except DataError as error:
        return Check(task_name, folder, files, str(error), {}, ())
    published = reader.published(task.options)
    if published is not None and not published.concerns(manifest):
        published = None
    differences = tuple(published.differences(manifest)) if published is not None else ()
    stock = take_stock(folder, manifest)
    notes = (*manifest.notes, *_repeated_captions(manifest), *_windows(task))
    return Check(task_name, folder, files, None, _splits(manifest, stock, published), differences, stock, notes)


def _windows(task: TaskSettings) -> Iterator[str]:
    if task.windows is not None:
        yield f"files longer than {task.windows.seconds:g} s by a tenth are cut into windows when they are decoded"


def _repeated_captions(manifest: Manifest) -> Iterator[str]:
    """Says how many videos of each split have a caption that another video of the split has too."""
    for name in SPLITS:
        videos: dict[str, set[str]] = {}
        for video in manifest.split(name):
            for caption in video.captions:
                videos.setdefault(caption, set()).add(video.video_id)
        shared = {caption: ids for caption, ids in videos.items() if len(ids) > 1}
        if shared:
            most = max(shared, key=lambda caption: len(shared[caption]))
            count = len(set().union(*shared.values()))
            yield (
                f"{count:,} videos of {name} share a caption with another video, such as {most!r} "
                f"({len(shared[most]):,} videos); a query counts as right only for its video, so tell them apart"
            )


def _splits(manifest: Manifest, stock: Inventory, published: Published | None) -> dict[str, SplitCheck]:
    splits = {}
    for name in SPLITS:
        videos = manifest.split(name)
        splits[name] = SplitCheck(
            videos=len(videos),
            captions=sum(len(video.captions) for video in videos),
            missing=tuple(video.uri for video in videos if video.uri not in stock.read),
            published=published.videos.get(name) if published is not None else None,
        )
    return splits


def _size(folder: str, file: AnnotationFile) -> int | None:
    sizes = (storage.size(storage.join(folder, name)) for name in file.names)
    return next((size for size in sizes if size is not None), None)


def _file_line(file: AnnotationFile, size: int | None) -> str:
    state = f"{size:,} bytes" if size is not None else "MISSING" if file.needed else "not there, not needed"
    return f"{' or '.join(file.names)}: {state}"
