"""The manifest of a collection: one row per video with its split and captions, and the protocol of its test."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from components.errors import DataError
from components.video import (
    RARE,
    SCHEMA,
    Facts,
    Video,
    counted,
    from_row,
    is_file_name,
    is_reversal,
    is_text,
    is_window,
    moment_is_sound,
    segment_is_sound,
)

SPLITS = ("train", "val", "test")

# The caption rule of a collection that is only searched. Its videos need no captions and are all in the split `test`.
NO_CAPTIONS = "no captions: searched, neither trained nor tested"


@dataclass(frozen=True)
class Protocol:
    """What makes results on one benchmark comparable. It is copied to every scorecard.

    Args:
        benchmark: The name of the benchmark.
        variant: Which of its published splits is used.
        test_split: The split of the manifest that is tested.
        caption_rule: Which texts count as queries.
        validation: How the validation split was made.
    """

    benchmark: str
    variant: str
    caption_rule: str
    validation: str
    test_split: str = "test"


@dataclass(frozen=True)
class Manifest:
    """All videos of a task, in the order of the annotation files.

    Args:
        task: The name of the task.
        protocol: What makes results comparable.
        videos: The videos.
        notes: What the reader left out of the annotations, one clause each. They are shown and not stored.
    """

    task: str
    protocol: Protocol
    videos: tuple[Video, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    def split(self, name: str) -> list[Video]:
        """The videos of one split, or of all splits for ``all``, without windows."""
        return [video for video in self.videos if name in ("all", video.split) and video.window_of is None]

    def searched(self, split: str) -> list[Video]:
        """What an index of a split, or of all splits for ``all``, holds: windows, and the videos that have none."""
        cut = {video.window_of for video in self.videos}
        return [video for video in self.videos if split in ("all", video.split) and video.video_id not in cut]

    def filmed(self) -> list[Video]:
        """The videos that have frames of their own to decode: all but those that show another one backwards."""
        return [video for video in self.videos if video.reverse_of is None]

    @property
    def is_only_searched(self) -> bool:
        """Whether the collection has no captions, so that nothing can be trained or tested."""
        return self.protocol.caption_rule == NO_CAPTIONS

    def by_id(self) -> dict[str, Video]:
        """All videos by id."""
        return {video.video_id: video for video in self.videos}

    def fingerprint(self) -> str:
        """The hex SHA-256 of the content. It is equal on all machines and for all library versions.

        Columns of :data:`UNCOUNTED` are left out.
        """
        content = [self.task, dataclasses.asdict(self.protocol), [counted(video) for video in self.videos]]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()

    def trained(self) -> Manifest:
        """What training and evaluation read of the manifest: without windows and facts, which are only searched."""
        videos = [video for video in self.videos if video.window_of is None]
        plain = tuple(dataclasses.replace(video, facts=Facts()) if video.facts.pairs else video for video in videos)
        return dataclasses.replace(self, videos=plain)

    def check(self) -> None:
        """Refuses a manifest that cannot give sound results.

        Raises:
            DataError: An id is not a file name, occurs twice or is in two splits. Or a split has no videos, a video has
                no caption or an empty one, a text is not Unicode, or a segment ends before it starts.
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
        yield "text with half a character (a lone surrogate)", [v.video_id for v in self.videos if not is_text(v)]
        yield "video id is not usable as a file name", [i for i in splits if not is_file_name(i)]
        yield "video is in two splits", [i for i, names in splits.items() if len(names) > 1]
        yield "video id occurs twice", [i for i, count in times.items() if count > 1]
        yield (
            "video without a caption, or with an empty one",
            [v.video_id for v in self.videos if not self._captions_are_sound(v)],
        )
        yield "segment ends before it starts", [v.video_id for v in self.videos if not segment_is_sound(v)]
        yield (
            "captions and their languages differ in number",
            [v.video_id for v in self.videos if v.languages and len(v.languages) != len(v.captions)],
        )
        yield (
            "moment without text, or without a span that ends after it starts",
            [v.video_id for v in self.videos if not all(map(moment_is_sound, v.moments))],
        )
        by_id = self.by_id()
        shown = Counter(v.reverse_of for v in self.videos if v.reverse_of)
        yield "two videos show the same one backwards", [name for name, count in shown.items() if count > 1]
        yield (
            "video runs backwards, but the one that it names has another split or file, or does so too, or is missing",
            [v.video_id for v in self.videos if v.reverse_of and not is_reversal(v, by_id.get(v.reverse_of))],
        )

        yield (
            "window names a video that has another split or file, or is itself a window, or is missing",
            [v.video_id for v in self.videos if v.window_of and not is_window(v, by_id.get(v.window_of))],
        )

    def _captions_are_sound(self, video: Video) -> bool:
        if self.is_only_searched or video.window_of is not None:
            return not video.captions
        return bool(video.captions) and all(caption.strip() for caption in video.captions)

    def to_table(self) -> pa.Table:
        """The manifest as a table of :data:`SCHEMA`. Task and protocol are in the metadata of the schema."""
        header = {"task": self.task, "protocol": dataclasses.asdict(self.protocol)}
        rows = [video.to_row() for video in self.videos]
        schema = SCHEMA
        for name, (column, nothing) in RARE.items():
            if any(name in row for row in rows):
                schema = schema.append(column)
                rows = [{name: nothing, **row} for row in rows]
        return pa.Table.from_pylist(rows, schema=schema.with_metadata({"reeltune": json.dumps(header)}))

    @classmethod
    def from_table(cls, table: pa.Table) -> Manifest:
        """The inverse of :meth:`to_table`.

        Raises:
            DataError: The columns or the metadata are not those of a manifest.
        """
        metadata = (table.schema.metadata or {}).get(b"reeltune")
        columns = [*SCHEMA, *(column for name, (column, _) in RARE.items() if name in table.schema.names)]
        if metadata is None or not table.schema.equals(pa.schema(columns)):
            raise DataError("not a manifest table", found=table.schema.names, expected=", ".join(SCHEMA.names))
        try:
            header = json.loads(metadata)
            task, protocol = str(header["task"]), Protocol(**header["protocol"])
            videos = tuple(from_row(row) for row in table.to_pylist())
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError("manifest table is damaged", cure=f"{type(error).__name__}: {error}") from None
        return cls(task, protocol, videos)


def first_few(ids: Sequence[str], most: int = 5) -> str:
    """``ids`` for a message: the first few, and how many there are in all."""
    shown = ", ".join(ids[:most])
    return shown if len(ids) <= most else f"{shown} and {len(ids) - most} more ({len(ids)} in all)"
