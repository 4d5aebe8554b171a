"""The manifest of a collection: one row per video, with its split and captions, and the protocol it is tested under."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from components.errors import DataError

SPLITS = ("train", "val", "test")

# The caption rule of a collection that is only searched: its videos need no captions and stand in one split, `test`.
NO_CAPTIONS = "no captions: searched, neither trained nor tested"

SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("start_seconds", pa.float64()),
        pa.field("end_seconds", pa.float64()),
        pa.field("subsets", pa.list_(pa.string()), nullable=False),
    ]
)


@dataclass(frozen=True)
class Video:
    """One row of a manifest.

    Args:
        video_id: unique in the collection; safe as a file name.
        uri: path (relative to the project's root where it lies under it) or URI of the file.
        split: one of :data:`SPLITS`.
        captions: all texts of the video; of a paragraph benchmark exactly one.
        start_seconds, end_seconds: the part of the file that is the video; None is the file's own start or end.
        subsets: named parts of the split that are also reported on their own.
    """

    video_id: str
    uri: str
    split: str
    captions: tuple[str, ...]
    start_seconds: float | None = None
    end_seconds: float | None = None
    subsets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """What makes figures of one benchmark comparable; copied onto every scorecard.

    Args:
        benchmark: name of the benchmark.
        variant: which of its published splits.
        test_split: the manifest's split that is tested.
        caption_rule: which texts count as queries.
        validation: how the validation split was made.
    """

    benchmark: str
    variant: str
    caption_rule: str
    validation: str
    test_split: str = "test"


@dataclass(frozen=True)
class Manifest:
    """All videos of a task, in the order of the annotation files."""

    task: str
    protocol: Protocol
    videos: tuple[Video, ...]

    def split(self, name: str) -> list[Video]:
        """Videos of one split, or of every split for ``all``."""
        return [video for video in self.videos if name in ("all", video.split)]

    @property
    def is_only_searched(self) -> bool:
        """Whether the reader declares that there are no captions, so that nothing can be trained or tested."""
        return self.protocol.caption_rule == NO_CAPTIONS

    def by_id(self) -> dict[str, Video]:
        """Every video under its id."""
        return {video.video_id: video for video in self.videos}

    def fingerprint(self) -> str:
        """Hex SHA-256 of the content, equal on every machine and for every version of the libraries."""
        content = [self.task, dataclasses.asdict(self.protocol), [dataclasses.astuple(video) for video in self.videos]]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()

    def check(self) -> None:
        """Refuses a manifest from which no sound figures could come.

        Raises:
            DataError: an id that is no file name, an id that stands twice or in two splits, a split without videos,
                a video without captions or with an empty one, a segment that ends before it starts.
        """
        for problem, ids in self._faults():
            if ids:
                raise DataError(problem, where=f"task {self.task}", found=first_few(ids))
        counts = Counter(video.split for video in self.videos)
        if unknown := sorted(set(counts) - set(SPLITS)):
            raise DataError("unknown split", where=f"task {self.task}", found=unknown, expected="train, val or test")
        needed = ("test",) if self.is_only_searched else SPLITS
        if empty := [split for split in needed if not counts[split]]:
            raise DataError(
                "split without videos",
                where=f"task {self.task}",
                found=", ".join(empty),
                expected=f"at least one video in each of {', '.join(needed)}",
            )

    def _faults(self) -> Iterable[tuple[str, list[str]]]:
        splits: dict[str, set[str]] = {}
        for video in self.videos:
            splits.setdefault(video.video_id, set()).add(video.split)
        times = Counter(video.video_id for video in self.videos)
        yield "video id is not usable as a file name", [i for i in splits if not is_file_name(i)]
        yield "video stands in two splits", [i for i, names in splits.items() if len(names) > 1]
        yield "video id stands twice", [i for i, count in times.items() if count > 1]
        yield (
            "video without a caption, or with an empty one",
            [v.video_id for v in self.videos if not self._captions_are_sound(v)],
        )
        yield "segment ends before it starts", [v.video_id for v in self.videos if not _segment_is_sound(v)]

    def _captions_are_sound(self, video: Video) -> bool:
        if self.is_only_searched:
            return not video.captions
        return bool(video.captions) and all(caption.strip() for caption in video.captions)

    def to_table(self) -> pa.Table:
        """The manifest as a table of :data:`SCHEMA`; task and protocol travel in the schema's metadata."""
        header = {"task": self.task, "protocol": dataclasses.asdict(self.protocol)}
        rows = [dataclasses.asdict(video) for video in self.videos]
        return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"reeltune": json.dumps(header)}))

    @classmethod
    def from_table(cls, table: pa.Table) -> Manifest:
        """The inverse of :meth:`to_table`.

        Raises:
            DataError: columns or metadata are not those of a manifest.
        """
        metadata = (table.schema.metadata or {}).get(b"reeltune")
        if metadata is None or not table.schema.equals(SCHEMA):
            raise DataError("not a manifest table", found=table.schema.names, expected=", ".join(SCHEMA.names))
        header = json.loads(metadata)
        videos = tuple(
            Video(**{**row, "captions": tuple(row["captions"]), "subsets": tuple(row["subsets"])})
            for row in table.to_pylist()
        )
        return cls(header["task"], Protocol(**header["protocol"]), videos)


def first_few(ids: Sequence[str], most: int = 5) -> str:
    """``ids`` for a message: the first few and how many there are."""
    shown = ", ".join(ids[:most])
    return shown if len(ids) <= most else f"{shown} and {len(ids) - most} more ({len(ids)} in all)"


def is_file_name(name: str) -> bool:
    """Whether an id can name a file: no separator, no line end, no ``..``, no blank at either end."""
    return bool(name) and name == name.strip() and ".." not in name and not set(name) & set("/\\\0\n\r") and name != "."


def _segment_is_sound(video: Video) -> bool:
    start = video.start_seconds or 0.0
    return start >= 0 and (video.end_seconds is None or video.end_seconds > start)
