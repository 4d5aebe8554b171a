"""The queries that the page shows: the gallery of an index, with the ranks of all methods."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from components.evaluation.card import text_ranks
from components.layout import Layout
from components.search.records import Gallery, GalleryHit, GalleryQuery, Pictures


@dataclass(frozen=True)
class ShownVideo:
    """A video that was found for a query.

    Attributes:
        hit: Its rank, id and score.
        is_right: Whether it is the query's video.
        strip: Its frames in time order, as data URIs.
    """

    hit: GalleryHit
    is_right: bool
    strip: list[str]


@dataclass(frozen=True)
class ShownQuery:
    """A test caption and its answers.

    Attributes:
        text: The caption.
        subsets: Named parts of the test split that its video belongs to.
        ranks: The right video's rank by adapter.
        best: The best videos under the adapter of the index.
        right: The right video, None if it is among the best.
    """

    text: str
    subsets: tuple[str, ...]
    ranks: dict[str, float]
    best: list[ShownVideo]
    right: ShownVideo | None


def shown_queries(
    gallery: Gallery, pictures: Pictures, layout: Layout, task: str, adapters: Iterable[tuple[str, int]]
) -> list[ShownQuery]:
    """The queries of a gallery for the page.

    Args:
        gallery: The gallery of the task's index.
        pictures: Its frames.
        layout: Where the scorecards are.
        task: Key of the task in params.yaml.
        adapters: Method and seed of the adapters whose ranks are shown.

    Raises:
        EvaluationError: A table of ranks is missing or damaged.
    """
    ranks = {f"{name}-{seed}": text_ranks(layout.scorecards(task, name, seed), "test") for name, seed in adapters}
    return [_shown(query, pictures, gallery.adapter, ranks) for query in gallery.queries]


def _shown(
    query: GalleryQuery, pictures: Pictures, adapter: str, ranks: dict[str, Mapping[tuple[str, str], float]]
) -> ShownQuery:
    key = (query.video_id, query.text)
    not_in_report = {} if adapter in ranks else {adapter: query.rank}
    return ShownQuery(
        text=query.text,
        subsets=query.subsets,
        ranks=not_in_report | {name: table[key] for name, table in ranks.items() if key in table},
        best=[_video(hit, query, pictures) for hit in query.best],
        right=_video(query.right, query, pictures) if query.right else None,
    )


def _video(hit: GalleryHit, query: GalleryQuery, pictures: Pictures) -> ShownVideo:
    return ShownVideo(hit, hit.video_id == query.video_id, [jpeg_uri(frame) for frame in pictures[hit.video_id]])


def jpeg_uri(content: bytes) -> str:
    """JPEG bytes for an ``img`` element."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()
