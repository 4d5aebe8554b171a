"""Test queries with what was found for them, right and wrong, drawn by a stated rule and not by hand."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from components.frames.store import FrameStore
from components.search.query import Hit, Searcher

# Frames shown of each video: the first, the middle and the last tell most motions.
STRIP = 3
TOP = 5


@dataclass(frozen=True)
class Found:
    """One ranked video.

    Attributes:
        right: whether it is the query's own video.
        strip: frames in time order, as data URIs.
    """

    hit: Hit
    right: bool
    strip: list[str]


@dataclass(frozen=True)
class Query:
    """A test caption and its answers.

    Attributes:
        text: the caption.
        video_id: the right video.
        subsets: named parts of the test set that it belongs to.
        ranks: the right video's rank under each method.
        found: the best videos under the searched method.
        own: the right video, where it is not among them.
    """

    text: str
    video_id: str
    subsets: list[str]
    ranks: dict[str, float]
    found: list[Found]
    own: Found | None


def read_ranks(root: Path, task: str, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Text-to-video ranks of the test split per adapter (``<method>-<seed>``), a row per caption."""
    columns = ["direction", "video_id", "caption", "rank", "decoded", "subsets"]
    tables = {}
    for name in names:
        path = root / "outputs" / "scorecards" / task / name / "test-ranks.parquet"
        if path.exists():
            rows = pq.read_table(path, columns=columns).to_pylist()
            tables[name] = [row for row in rows if row["direction"] == "t2v"]
    return tables


def choose(rows: Sequence[Mapping[str, Any]], each: int = 2) -> list[int]:
    """Rows to show: ``each`` ranked first and ``each`` not, inside named parts of the test set and outside them.

    Within each of these four groups the rows with the smallest hash of video and caption are taken: a draw that
    nobody chose and that stays the same.
    """
    groups: dict[tuple[bool, bool], list[int]] = {(a, b): [] for a in (True, False) for b in (True, False)}
    for row in sorted(range(len(rows)), key=lambda index: _draw(rows[index])):
        group = groups[bool(rows[row]["subsets"]), rows[row]["rank"] == 1]
        if rows[row]["decoded"] and len(group) < each:
            group.append(row)
    return [row for group in groups.values() for row in group]


def _draw(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{row['video_id']}\0{row['caption']}".encode()).hexdigest()


def queries(
    searcher: Searcher, store: FrameStore, ranks: Mapping[str, Sequence[Mapping[str, Any]]], name: str
) -> list[Query]:
    """The chosen test queries of a task with their answers.

    Args:
        searcher: of the task, with the test split in its index.
        store: the task's frames.
        ranks: as :func:`read_ranks` gives them.
        name: the searched adapter's key in ``ranks``; right and wrong are told by it.
    """
    # The ranks of all adapters are in one order, that of the manifest's captions.
    chosen = choose(ranks[name])
    texts = [str(ranks[name][row]["caption"]) for row in chosen]
    result = []
    for row, text, hits in zip(chosen, texts, searcher.search_many(texts, len(searcher.index.rows)), strict=True):
        video_id = ranks[name][row]["video_id"]
        own = next((hit for hit in hits if hit.video_id == video_id), None)
        shown = [_found(store, hit, video_id) for hit in hits[:TOP]]
        result.append(
            Query(
                text=text,
                video_id=video_id,
                subsets=ranks[name][row]["subsets"],
                ranks={key: rows[row]["rank"] for key, rows in ranks.items() if len(rows) == len(ranks[name])},
                found=shown,
                own=_found(store, own, video_id) if own and own.rank > TOP else None,
            )
        )
    return result


def _found(store: FrameStore, hit: Hit, right: str) -> Found:
    frames = next(store.read([hit.video_id])).frames
    last = len(frames) - 1
    places = sorted({round(last * step / (STRIP - 1)) for step in range(STRIP)})
    return Found(hit, hit.video_id == right, [jpeg_uri(frames[place]) for place in places])


def jpeg_uri(content: bytes) -> str:
    """JPEG bytes for an ``img`` element."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()
