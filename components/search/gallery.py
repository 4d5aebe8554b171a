"""The gallery of an index: test queries with what was found for them, right and wrong, chosen by a fixed rule."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.evaluation.card import read_ranks, read_scorecard
from components.frames.store import FrameStore
from components.search.query import Hit, Searcher
from components.search.records import WITH_TEST, Gallery, GalleryHit, GalleryQuery, Pictures, Source

# Frames shown of each video. The first, the middle and the last show most motions.
STRIP = 3
BEST = 5


@dataclass(frozen=True)
class RankedCaption:
    """A text-to-video query of the test split with its rank.

    Attributes:
        video_id: The caption's video.
        caption: The query.
        rank: The rank of the video, from 1.
        decoded: False if the video has no frames.
        subsets: Named parts of the test split that the video belongs to.
    """

    video_id: str
    caption: str
    rank: float
    decoded: bool
    subsets: tuple[str, ...]


def ranked_captions(folder: Path) -> list[RankedCaption]:
    """The test captions of an adapter's scorecard.

    Args:
        folder: The adapter's scorecards.

    Raises:
        EvaluationError: The table of ranks is missing or damaged.
    """
    rows = read_ranks(folder, "test").select(["direction", "video_id", "caption", "rank", "decoded", "subsets"])
    return [
        RankedCaption(row["video_id"], row["caption"], row["rank"], row["decoded"], tuple(row["subsets"]))
        for row in rows.to_pylist()
        if row["direction"] == "t2v"
    ]


def choose(captions: Sequence[RankedCaption], each: int = 2) -> list[RankedCaption]:
    """The queries to show: ``each`` ranked first and ``each`` not, inside named parts of the test split and outside.

    Each of these four groups takes the queries with the smallest hash of video and caption. Nobody picks them, and
    they stay the same. Videos that failed to decode are left out.
    """
    groups: dict[tuple[bool, bool], list[RankedCaption]] = {(a, b): [] for a in (True, False) for b in (True, False)}
    for caption in sorted(captions, key=_hash):
        group = groups[bool(caption.subsets), caption.rank == 1]
        if caption.decoded and len(group) < each:
            group.append(caption)
    return [caption for group in groups.values() for caption in group]


def _hash(caption: RankedCaption) -> str:
    return hashlib.sha256(f"{caption.video_id}\0{caption.caption}".encode()).hexdigest()


def make_gallery(
    searcher: Searcher, store: FrameStore, source: Source, scorecards: Path
) -> tuple[Gallery, Pictures] | None:
    """The chosen queries, what the index finds for them, and the frames to show.

    Args:
        searcher: The searcher of the new index.
        store: The task's frames.
        source: What the index was made from.
        scorecards: The folder for the scorecards of the index's adapter.

    Returns:
        The gallery. None if the index lacks the test split, or if ``scorecards`` are not of this adapter and store.

    Raises:
        EvaluationError: The scorecard or its table of ranks is damaged.
    """
    if source.split not in WITH_TEST or not _fits(scorecards, searcher.index.adapter_sha256, source.store):
        return None
    chosen = choose(ranked_captions(scorecards))
    found = searcher.search_many([caption.caption for caption in chosen], len(searcher.index.rows))
    queries = tuple(_query(caption, hits) for caption, hits in zip(chosen, found, strict=True))
    shown = [hit.video_id for query in queries for hit in (*query.best, *([query.right] if query.right else []))]
    pictures = {video.video_id: _strip(video.frames) for video in store.read(list(dict.fromkeys(shown)))}
    return Gallery(adapter=source.adapter, queries=queries), pictures


def _fits(scorecards: Path, adapter_sha256: str, store: str) -> bool:
    """Whether there is a scorecard of this adapter on this frame store. A champion may be older than the scorecards."""
    if not (scorecards / "test.json").exists():
        return False
    card = read_scorecard(scorecards, "test")
    return (card.adapter_sha256, card.store) == (adapter_sha256, store)


def _query(caption: RankedCaption, hits: Sequence[Hit]) -> GalleryQuery:
    # All decoded videos of the test split are in the index.
    right = next(hit for hit in hits if hit.video_id == caption.video_id)
    return GalleryQuery(
        text=caption.caption,
        video_id=caption.video_id,
        subsets=caption.subsets,
        rank=caption.rank,
        best=tuple(_gallery_hit(hit) for hit in hits[:BEST]),
        right=_gallery_hit(right) if right.rank > BEST else None,
    )


def _gallery_hit(hit: Hit) -> GalleryHit:
    return GalleryHit(rank=hit.rank, video_id=hit.video_id, score=hit.score)


def _strip(frames: Sequence[bytes]) -> list[bytes]:
    last = len(frames) - 1
    return [frames[place] for place in sorted({round(last * step / (STRIP - 1)) for step in range(STRIP)})]
