"""The manifest of a collection: one row per video with its split and captions, and the protocol of its test."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from components.errors import DataError

SPLITS = ("train", "val", "test")

# The caption rule of a collection that is only searched. Its videos need no captions and are all in the split `test`.
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

# Columns that a table has only if a video has a value for them, and the value that says so.
RARE: dict[str, tuple[pa.Field, object]] = {
    "languages": (pa.field("languages", pa.list_(pa.string()), nullable=False), ()),
    "reverse_of": (pa.field("reverse_of", pa.string()), None),
    "window_of": (pa.field("window_of", pa.string()), None),
    "facts": (pa.field("facts", pa.string()), None),
    "moments": (
        pa.field(
            "moments",
            pa.list_(pa.struct({"text": pa.string(), "spans": pa.list_(pa.list_(pa.float64()))})),
            nullable=False,
        ),
        (),
    ),
}

# Rare columns that decide neither frames nor training. A store keeps its fingerprint when they are added.
UNCOUNTED = ("moments",)


@dataclass(frozen=True)
class Moment:
    """A text, and where in its video it is true.

    Args:
        text: A sentence.
        spans: At least one start and end, in seconds from the beginning of the video (not of the file).
    """

    text: str
    spans: tuple[tuple[float, float], ...]


Fact = str | int | float | bool


@dataclass(frozen=True)
class Facts(Mapping[str, Fact]):
    """What a person's table says of a video besides its captions, by the name of the column.

    Args:
        pairs: The names and values, in the order of the table's columns.
    """

    pairs: tuple[tuple[str, Fact], ...] = ()

    def __getitem__(self, name: str) -> Fact:
        return dict(self.pairs)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(name for name, _ in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def to_text(self) -> str | None:
        """The facts as a JSON object, or None without any."""
        return json.dumps(dict(self.pairs), ensure_ascii=False) if self.pairs else None

    @classmethod
    def from_text(cls, text: str | None) -> Facts:
        """The inverse of :meth:`to_text`.

        Raises:
            ValueError: The text is not the JSON of an object of scalars.
        """
        content = {} if text is None else json.loads(text)
        if not isinstance(content, dict) or not all(isinstance(value, Fact) for value in content.values()):
            raise ValueError("facts are not an object of scalars")
        return cls(tuple(content.items()))


@dataclass(frozen=True)
class Video:
    """One row of a manifest.

    Args:
        video_id: An id that is unique in the collection and safe as a file name.
        uri: The path or URI of the file. A path under the project's root is relative to the root.
        split: One of :data:`SPLITS`.
        captions: All texts of the video. A paragraph benchmark has exactly one per video.
        start_seconds, end_seconds: The part of the file that is the video. None means the start or end of the file.
        subsets: Named parts of the split that are also reported separately.
        languages: The language of each caption, such as ``en``. Empty if the captions are in one language.
        reverse_of: The id of the video whose frames this one shows backwards, or None. That video is decoded and stored
            once. Both are in the same split and name the same part of the same file.
        window_of: The id of the video of which this one is a window, or None. Windows have no captions. They are
            searched, and neither trained nor tested. Ingest adds them.
        facts: Further columns of a person's table, for filters. A window has those of its video.
        moments: Sentences with their spans, for benchmarks that look for moments within the video.
    """

    video_id: str
    uri: str
    split: str
    captions: tuple[str, ...]
    start_seconds: float | None = None
    end_seconds: float | None = None
    subsets: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    reverse_of: str | None = None
    window_of: str | None = None
    facts: Facts = Facts()
    moments: tuple[Moment, ...] = ()

    def end_in(self, length_seconds: float) -> float:
        """Where the video ends in its file, which has this length."""
        return length_seconds if self.end_seconds is None else self.end_seconds

    def to_row(self) -> dict[str, object]:
        """All fields by name, as a table has them. Those of :data:`RARE` are left out where they have no value."""
        row = {**dataclasses.asdict(self), "facts": self.facts.to_text()}
        return {name: value for name, value in row.items() if name not in RARE or value != RARE[name][1]}


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
        content = [self.task, dataclasses.asdict(self.protocol), [_content(video) for video in self.videos]]
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
        yield "text with half a character (a lone surrogate)", [v.video_id for v in self.videos if not _is_text(v)]
        yield "video id is not usable as a file name", [i for i in splits if not is_file_name(i)]
        yield "video is in two splits", [i for i, names in splits.items() if len(names) > 1]
        yield "video id occurs twice", [i for i, count in times.items() if count > 1]
        yield (
            "video without a caption, or with an empty one",
            [v.video_id for v in self.videos if not self._captions_are_sound(v)],
        )
        yield "segment ends before it starts", [v.video_id for v in self.videos if not _segment_is_sound(v)]
        yield (
            "captions and their languages differ in number",
            [v.video_id for v in self.videos if v.languages and len(v.languages) != len(v.captions)],
        )
        yield (
            "moment without text, or without a span that ends after it starts",
            [v.video_id for v in self.videos if not all(map(_moment_is_sound, v.moments))],
        )
        by_id = self.by_id()
        shown = Counter(v.reverse_of for v in self.videos if v.reverse_of)
        yield "two videos show the same one backwards", [name for name, count in shown.items() if count > 1]
        yield (
            "video runs backwards, but the one that it names has another split or file, or does so too, or is missing",
            [v.video_id for v in self.videos if v.reverse_of and not _is_reversal(v, by_id.get(v.reverse_of))],
        )

        yield (
            "window names a video that has another split or file, or is itself a window, or is missing",
            [v.video_id for v in self.videos if v.window_of and not _is_window(v, by_id.get(v.window_of))],
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
            videos = tuple(_from_row(row) for row in table.to_pylist())
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError("manifest table is damaged", cure=f"{type(error).__name__}: {error}") from None
        return cls(task, protocol, videos)


def window_id(video_id: str, start_seconds: float, end_seconds: float) -> str:
    """The id of a window of a video. The times are those of the file."""
    return f"{video_id}@{start_seconds:.3f}-{end_seconds:.3f}"


def first_few(ids: Sequence[str], most: int = 5) -> str:
    """``ids`` for a message: the first few, and how many there are in all."""
    shown = ", ".join(ids[:most])
    return shown if len(ids) <= most else f"{shown} and {len(ids) - most} more ({len(ids)} in all)"


def is_file_name(name: str) -> bool:
    """Whether an id can name a file: it has no separator, line end or ``..``, and no blank at either end."""
    return bool(name) and name == name.strip() and ".." not in name and not set(name) & set("/\\\0\n\r") and name != "."


def is_unicode(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_text(video: Video) -> bool:
    moments = [moment.text for moment in video.moments]
    return all(map(is_unicode, (video.video_id, video.uri, *video.captions, *video.subsets, *moments)))


def _from_row(row: dict[str, Any]) -> Video:
    """The inverse of :meth:`Video.to_row`."""
    facts = Facts.from_text(row.pop("facts", None))
    moments = tuple(
        Moment(moment["text"], tuple((start, end) for start, end in moment["spans"]))
        for moment in row.pop("moments", ())
    )
    return Video(**{name: _frozen(value) for name, value in row.items()}, facts=facts, moments=moments)


def _frozen(value: Any) -> Any:
    """A value of a table's row. Lists become tuples."""
    return tuple(value) if isinstance(value, list) else value


def _content(video: Video) -> list[object]:
    """What counts of a video, in a fixed order. Fields of :data:`RARE` without a value do not count."""
    row = {name: value for name, value in video.to_row().items() if name not in UNCOUNTED}
    rare = {name: row.pop(name) for name in RARE if name in row}
    return [*row.values(), rare] if rare else [*row.values()]


def _is_reversal(video: Video, shown: Video | None) -> bool:
    """Whether ``video`` can show ``shown`` backwards."""
    return shown is not None and shown.reverse_of is None and _place(video) == _place(shown)


def _is_window(video: Video, source: Video | None) -> bool:
    """Whether ``video`` can be a window of ``source``."""
    return (
        source is not None
        and source.window_of is None
        and source.reverse_of is None
        and (video.split, video.uri) == (source.split, source.uri)
    )


def _place(video: Video) -> tuple[object, ...]:
    return video.split, video.uri, video.start_seconds, video.end_seconds


def _segment_is_sound(video: Video) -> bool:
    start = video.start_seconds or 0.0
    return start >= 0 and (video.end_seconds is None or video.end_seconds > start)


def _moment_is_sound(moment: Moment) -> bool:
    return bool(moment.text.strip() and moment.spans) and all(0 <= start < end for start, end in moment.spans)
