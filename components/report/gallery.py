"""The test queries on the page: the answers that the index stage wrote, with the rank under every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.search.card import Gallery, ShownHit, ShownQuery

# The rank of every test caption under one adapter, by video and caption.
RanksByQuery = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class PageVideo:
    """One ranked video on the page.

    Attributes:
        hit: The rank, the score and the video.
        is_right: Whether it is the right video.
        strip: Frames in time order, as data URIs.
    """

    hit: ShownHit
    is_right: bool
    strip: list[str]


@dataclass(frozen=True)
class PageQuery:
    """A test caption on the page, with its answers.

    Attributes:
        text: The caption.
        video_id: The right video.
        subsets: The named parts of the test set that contain the video.
        ranks: The right video's rank under each adapter.
        best: The best videos under the searched adapter.
        right: The right video, None if it is among the best.
    """

    text: str
    video_id: str
    subsets: tuple[str, ...]
    ranks: dict[str, float]
    best: list[PageVideo]
    right: PageVideo | None


def make_queries(gallery: Gallery, ranks: Mapping[str, RanksByQuery]) -> list[PageQuery]:
    """The queries as the page shows them.

    Args:
        gallery: The queries that the index stage chose and answered.
        ranks: The ranks under each adapter, by the adapter's name on the page.
    """
    return [_query(query, gallery.strips, ranks) for query in gallery.queries]


def _query(query: ShownQuery, strips: Mapping[str, Sequence[str]], ranks: Mapping[str, RanksByQuery]) -> PageQuery:
    key = query.video_id, query.text

    def show(hit: ShownHit) -> PageVideo:
        return PageVideo(hit, hit.video_id == query.video_id, [jpeg_uri(frame) for frame in strips[hit.video_id]])

    return PageQuery(
        text=query.text,
        video_id=query.video_id,
        subsets=query.subsets,
        ranks={name: table[key] for name, table in ranks.items() if key in table},
        best=[show(hit) for hit in query.best],
        right=show(query.right) if query.right.rank > len(query.best) else None,
    )


def jpeg_uri(content: str) -> str:
    """An address for an ``img`` element.

    Args:
        content: The bytes of a JPEG file as base64.
    """
    return "data:image/jpeg;base64," + content
