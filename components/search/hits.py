"""Answers, and how they are written: as a table, as JSON or as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Format = Literal["table", "json", "csv"]

COLUMNS = (
    *("query", "rank", "video_id", "score", "start_seconds", "end_seconds", "uri"),
    *("window_of", "percentile", "below_cutoff", "folded", "clip"),
)


@dataclass(frozen=True, repr=False)
class Hit:
    """One answer: a span of a file.

    Attributes:
        rank: The position in the list, from 1.
        video_id: The video's id in the collection.
        score: The cosine of question and video, from -1 to 1, rounded to six decimals.
        start_seconds: Where the span starts in its file.
        end_seconds: Where the span ends in its file.
        uri: The file's path or URI. A path under the project's root is relative to it.
        thumbnail: JPEG bytes of the middle frame.
        window_of: The id of the video that this is a window of, None if it is a whole one.
        percentile: The percentage of the collection's videos that score lower for this question.
        below_cutoff: Whether the score is below the cut-off of "nothing found". None if there is no cut-off.
        folded: Ids of near-duplicates that ranked between this hit and the last one.
    """

    rank: int
    video_id: str
    score: float
    start_seconds: float
    end_seconds: float
    uri: str
    thumbnail: bytes
    window_of: str | None = None
    percentile: float | None = None
    below_cutoff: bool | None = None
    folded: tuple[str, ...] = ()

    @property
    def span(self) -> str:
        """Start and end, as in ``00:01.5-00:04.0``."""
        return f"{clock(self.start_seconds)}-{clock(self.end_seconds)}"

    def __repr__(self) -> str:
        return f"Hit({self.rank}, {self.score:.3f}, {self.span}, {self.video_id!r}, {self.uri!r})"


@dataclass(frozen=True)
class Answer:
    """The answers to one question.

    Attributes:
        query: The question as text.
        hits: The best videos, the best first.
        notes: What a person should know about them, one line each.
        clips: The paths of the clips that were saved of the hits, None where there is none.
    """

    query: str
    hits: Sequence[Hit]
    notes: Sequence[str] = ()
    clips: Sequence[str | None] = ()

    def rows(self) -> list[dict[str, object]]:
        """A mapping of :data:`COLUMNS` for each hit."""
        clips = self.clips or [None] * len(self.hits)
        return [
            {
                "query": self.query,
                **{name: getattr(hit, name) for name in COLUMNS[1:-2]},
                "folded": list(hit.folded),
                "clip": clip,
            }
            for hit, clip in zip(self.hits, clips, strict=True)
        ]


def written(answers: Sequence[Answer], form: Format) -> str:
    """Answers as text.

    JSON is a list with ``query``, ``notes`` and ``hits`` of each question. CSV has a row per hit, in which the ids of
    near-duplicates are a JSON list. Tables have a title if there are several questions.
    """
    if form == "json":
        tree = [
            {
                "query": answer.query,
                "notes": list(answer.notes),
                "hits": [{name: value for name, value in row.items() if name != "query"} for row in answer.rows()],
            }
            for answer in answers
        ]
        return json.dumps(tree, indent=1, ensure_ascii=False)
    if form == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for answer in answers:
            writer.writerows({**row, "folded": _listed(row["folded"])} for row in answer.rows())
        return text.getvalue().rstrip("\n")
    if len(answers) == 1:
        return _with_notes(answers[0])
    return "\n\n".join(f"{answer.query}\n{_with_notes(answer)}" for answer in answers)


def _listed(folded: object) -> str:
    return json.dumps(folded, ensure_ascii=False) if folded else ""


def _with_notes(answer: Answer) -> str:
    return "\n".join([*answer.notes, *([format_hits(answer.hits)] if answer.hits else [])])


def format_hits(hits: Sequence[Hit]) -> str:
    """Hits as an aligned table.

    Without a cut-off, a column gives the score's percentile in the collection. The ids of near-duplicates come last.
    """
    head, rows = ["rank", "score"], [[str(hit.rank), f"{hit.score:.3f}"] for hit in hits]
    if any(hit.percentile is not None and hit.below_cutoff is None for hit in hits):
        head.append("percentile")
        for row, hit in zip(rows, hits, strict=True):
            row.append("" if hit.percentile is None else f"{hit.percentile:.1f}")
    right = len(head)
    if any(hit.below_cutoff for hit in hits):
        head.append("cut-off")
        for row, hit in zip(rows, hits, strict=True):
            row.append("below" if hit.below_cutoff else "")
    head += ["span", "video", "file"]
    for row, hit in zip(rows, hits, strict=True):
        row += [hit.span, hit.video_id, hit.uri]
    if any(hit.folded for hit in hits):
        head.append("also")
        for row, hit in zip(rows, hits, strict=True):
            row.append(", ".join(hit.folded))
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [text.rjust(width) for text, width in zip(row[:right], widths[:right], strict=True)]
        cells += [text.ljust(width) for text, width in zip(row[right:], widths[right:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """``mm:ss.s``, or ``h:mm:ss.s`` from one hour on."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02d}:{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{text}" if hours else text
