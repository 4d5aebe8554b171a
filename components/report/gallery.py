"""The test queries on the page: the answers that the index stage wrote, with the rank under every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import DataError
from components.search.card import Gallery, ShownHit, ShownQuery

# The rank of every test caption under one adapter, by video and caption.
RanksByQuery = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Found:
    """One ranked video.

    Attributes:
        hit: The rank, the score and the video.
        right: Whether it is the right video.
        strip: Frames in time order, as data URIs.
    """

    hit: ShownHit
    right: bool
    strip: list[str]


@dataclass(frozen=True)
class Query:
    """A test caption and its answers.

    Attributes:
        text: The caption.
        video_id: The right video.
        subsets: The named parts of the test set that contain the video.
        ranks: The right video's rank under each adapter.
        found: The best videos under the searched adapter.
        own: The right video if it is not among them.
    """

    text: str
    video_id: str
    subsets: list[str]
    ranks: dict[str, float]
    found: list[Found]
    own: Found | None


def read_ranks(folders: Mapping[str, Path]) -> dict[str, RanksByQuery]:
    """The text-to-video ranks of the test split.

    Args:
        folders: The folder of scorecards of each adapter, by the name that the page shows.

    Returns:
        The ranks by the same names. An adapter without a table of ranks is left out.

    Raises:
        DataError: A table is damaged.
    """
    paths = {name: folder / "test-ranks.parquet" for name, folder in folders.items()}
    return {name: _read_ranks(path) for name, path in paths.items() if path.exists()}


def _read_ranks(path: Path) -> RanksByQuery:
    try:
        table = pq.read_table(path, columns=["direction", "video_id", "caption", "rank"])
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError("ranks cannot be read", where=path, found=str(error), cure="run the evaluate stage") from None
    return {(row["video_id"], row["caption"]): row["rank"] for row in table.to_pylist() if row["direction"] == "t2v"}


def make_queries(gallery: Gallery, ranks: Mapping[str, RanksByQuery]) -> list[Query]:
    """The queries as the page shows them.

    Args:
        gallery: The queries that the index stage chose and answered.
        ranks: The ranks under each adapter, as :func:`read_ranks` returns them.
    """
    return [_query(query, gallery.strips, ranks) for query in gallery.queries]


def _query(query: ShownQuery, strips: Mapping[str, Sequence[str]], ranks: Mapping[str, RanksByQuery]) -> Query:
    key = query.video_id, query.text

    def show(hit: ShownHit) -> Found:
        return Found(hit, hit.video_id == query.video_id, [jpeg_uri(frame) for frame in strips[hit.video_id]])

    return Query(
        text=query.text,
        video_id=query.video_id,
        subsets=list(query.subsets),
        ranks={name: table[key] for name, table in ranks.items() if key in table},
        found=[show(hit) for hit in query.best],
        own=show(query.right) if query.right.rank > len(query.best) else None,
    )


def jpeg_uri(content: str) -> str:
    """An address for an ``img`` element.

    Args:
        content: The bytes of a JPEG file as base64.
    """
    return "data:image/jpeg;base64," + content
