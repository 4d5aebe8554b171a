"""One row of a manifest: a video with its place, its split, its captions, and what else is known of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

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


def window_id(video_id: str, start_seconds: float, end_seconds: float) -> str:
    """The id of a window of a video. The times are those of the file."""
    return f"{video_id}@{start_seconds:.3f}-{end_seconds:.3f}"


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


def is_text(video: Video) -> bool:
    """Whether all texts of a video can be written as UTF-8."""
    moments = [moment.text for moment in video.moments]
    return all(map(is_unicode, (video.video_id, video.uri, *video.captions, *video.subsets, *moments)))


def from_row(row: dict[str, Any]) -> Video:
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


def counted(video: Video) -> list[object]:
    """What counts of a video, in a fixed order. Fields of :data:`RARE` without a value do not count."""
    row = {name: value for name, value in video.to_row().items() if name not in UNCOUNTED}
    rare = {name: row.pop(name) for name in RARE if name in row}
    return [*row.values(), rare] if rare else [*row.values()]


def is_reversal(video: Video, shown: Video | None) -> bool:
    """Whether ``video`` can show ``shown`` backwards."""
    return shown is not None and shown.reverse_of is None and _place(video) == _place(shown)


def is_window(video: Video, source: Video | None) -> bool:
    """Whether ``video`` can be a window of ``source``."""
    return (
        source is not None
        and source.window_of is None
        and source.reverse_of is None
        and (video.split, video.uri) == (source.split, source.uri)
    )


def _place(video: Video) -> tuple[object, ...]:
    return video.split, video.uri, video.start_seconds, video.end_seconds


def segment_is_sound(video: Video) -> bool:
    """Whether the part of the file begins before it ends."""
    start = video.start_seconds or 0.0
    return start >= 0 and (video.end_seconds is None or video.end_seconds > start)


def moment_is_sound(moment: Moment) -> bool:
    """Whether a moment has a text and spans that begin before they end."""
    return bool(moment.text.strip() and moment.spans) and all(0 <= start < end for start, end in moment.spans)
