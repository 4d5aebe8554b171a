"""A reader from outside the project: a text file with a line `split id caption` per video."""

from __future__ import annotations

from components import storage
from components.benchmarks import files
from components.benchmarks.interface import AnnotationFile, Options, Reader
from components.manifest import Manifest, Protocol
from components.video import Video


def read(task: str, folder: str, options: Options) -> Manifest:
    """Reads the manifest of a folder with ``list.txt``."""
    rows = [line.split(maxsplit=2) for _, line in files.read_lines(storage.join(folder, "list.txt"))]
    videos = tuple(Video(name, storage.join(folder, f"{name}.mp4"), split, (caption,)) for split, name, caption in rows)
    return Manifest(task, Protocol("outside", "1", "one caption per test video", "listed"), videos)


READER = Reader(read=read, files=lambda options: (AnnotationFile(("list.txt",)),))
