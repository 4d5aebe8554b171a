"""What a benchmark has to provide: a function that reads it, the files it opens, and the published counts.

A reader from outside the project is an instance of :class:`Reader`. A task in params.yaml names it as
``benchmark: "package.module:READER"``, or by the name of an entry point in the group ``reeltune.benchmarks``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from components.manifest import SPLITS, Manifest

# The options of a task in params.yaml. A reader checks the values.
Options = Mapping[str, object]


@dataclass(frozen=True)
class Published:
    """The published counts of a benchmark.

    Args:
        ids: The form of the ids of its test videos. Files in the same format without such an id hold another
            collection, and its counts are not compared.
        videos: The number of videos per split. Without ``val``, the training count includes the videos that are held
            out for validation.
        captions: The number of captions per split, where it is known.
    """

    ids: re.Pattern[str]
    videos: Mapping[str, int]
    captions: Mapping[str, int] = field(default_factory=dict)

    def concerns(self, manifest: Manifest) -> bool:
        """Whether a test video has an id of the benchmark."""
        return any(self.ids.fullmatch(video.video_id) for video in manifest.split("test"))

    def differences(self, manifest: Manifest) -> list[str]:
        """Lists how the user's copy differs from the published counts, one clause each."""
        if not self.concerns(manifest):
            return []
        found = {split: manifest.split(split) for split in SPLITS}
        if "val" not in self.videos and len(found["train"]) != self.videos.get("train"):
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
    """A file that a reader opens.

    Args:
        names: Its possible names in the collection's folder. One of them is enough.
        needed: False if the reader can do without it.
    """

    names: tuple[str, ...]
    needed: bool = True


@dataclass(frozen=True)
class Reader:
    """How a benchmark is read.

    Args:
        read: Makes the manifest from the name of the task, the folder or URI of the collection, and the task's options
            in params.yaml. It does not check which videos exist.
        files: The annotation files that ``read`` opens under given options.
        published: The published counts under given options, or None if there are none.
        frames: The frames per video that the protocol prescribes, or None if it leaves them to the method.
    """

    read: Callable[[str, str, Options], Manifest]
    files: Callable[[Options], tuple[AnnotationFile, ...]]
    published: Callable[[Options], Published | None] = lambda options: None
    frames: int | None = None
