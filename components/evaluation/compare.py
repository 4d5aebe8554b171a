"""Two adapters on the same queries: is the difference more than the choice of videos?

The test is a paired bootstrap (Efron and Tibshirani, 1993; Koehn, EMNLP 2004). The metrics of both adapters come from
the same draws of videos, and the interval and the p-value are those of their difference. The seed of a training is
another source of chance, which one scorecard per method does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.errors import EvaluationError
from components.evaluation import bootstrap
from components.evaluation.card import DIRECTIONS, METRICS, Direction, ScorecardHead, read_ranks, read_scorecard
from components.evaluation.card_text import warnings_of
from components.evaluation.metrics import DECIMALS, summary
from components.layout import Layout

# The fields that must be equal in both cards. The message names the first that differs.
CARD_FIELDS = ("split", "protocol", "rank_rule", "gallery", "queries", "failed_videos")
# The columns that must be equal row by row, and what a message calls their content.
COLUMNS = {"direction": "directions", "video_id": "videos", "caption": "captions", "decoded": "decoded videos"}


@dataclass(frozen=True)
class Difference:
    """One metric of both adapters.

    Attributes:
        direction: ``t2v`` or ``v2t``.
        metric: Its name, such as ``R@1``.
        a: The value of the first adapter.
        b: The value of the second adapter.
        difference: b - a.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end of the interval.
        p: The two-sided p-value of no difference.
    """

    direction: Direction
    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Change:
    """One query with another rank.

    Attributes:
        direction: ``t2v`` or ``v2t``.
        video_id: The query's video.
        caption: The query, None if the video is the query.
        rank_a: The rank under the first adapter.
        rank_b: The rank under the second adapter.
    """

    direction: str
    video_id: str
    caption: str | None
    rank_a: float
    rank_b: float


@dataclass(frozen=True)
class Comparison:
    """The outcome.

    Attributes:
        names: The names of both adapters.
        split: The split that both were evaluated on.
        queries: The number of queries by direction.
        gallery: The number of videos that were ranked.
        resamples: Resamples of the videos.
        differences: One per direction and metric.
        changes: The queries whose rank changed most.
        warnings: The warnings of both cards.
    """

    names: tuple[str, str]
    split: str
    queries: dict[Direction, int]
    gallery: int
    resamples: int
    differences: list[Difference]
    changes: list[Change]
    warnings: list[str]


def scorecard_folder(root: Path, name: str) -> Path:
    """The folder that ``name`` means: a path, or ``task/method-seed``.

    Args:
        root: The project's folder.
        name: The path, relative to the root, or the name.

    Raises:
        EvaluationError: There is no such folder.
    """
    places = [root / name, Layout(root).all_scorecards / name]
    for place in places:
        if place.is_dir():
            return place
    raise EvaluationError(
        "no scorecards",
        where=name,
        expected=f"a folder at {' or '.join(map(str, places))}",
        cure="run the evaluate stage, or name one as task/method-seed",
    )


def compare(a: Path, b: Path, split: str, resamples: int, most: int = 10) -> Comparison:
    """Compares the scorecards in two folders.

    Args:
        a: A folder that the evaluate stage wrote.
        b: Another such folder.
        split: ``test`` or ``val``.
        resamples: Resamples of the videos.
        most: The number of changed queries to list.

    Raises:
        EvaluationError: A file is missing or damaged, or the two adapters were not evaluated on the same queries,
            gallery and protocol. The message names the first difference.
    """
    cards = read_scorecard(a, split), read_scorecard(b, split)
    tables = read_ranks(a, split), read_ranks(b, split)
    require_same(cards, tables, (a, b), split)
    ranks = [table["rank"].to_numpy() for table in tables]
    videos, directions = tables[0]["video_id"].to_numpy(), tables[0]["direction"].to_numpy()
    differences = []
    for direction in DIRECTIONS:
        mask = directions == direction
        _, video = np.unique(videos[mask], return_inverse=True)
        differences += compare_ranks(ranks[0][mask], ranks[1][mask], video, direction, resamples)
    return Comparison(
        names=(cards[0].name, cards[1].name),
        split=split,
        queries={direction: int((directions == direction).sum()) for direction in DIRECTIONS},
        gallery=cards[0].gallery,
        resamples=resamples,
        differences=differences,
        changes=_changes(tables, most),
        warnings=[f"{card.name}: {text}" for card in cards for text in warnings_of(card)],
    )


def compare_ranks(
    a: NDArray[np.float64], b: NDArray[np.float64], video: NDArray[np.int64], direction: Direction, resamples: int
) -> list[Difference]:
    """The difference of every metric on the same queries.

    Args:
        a: float64[Q], the ranks under the first adapter.
        b: float64[Q], the ranks of the same queries under the second adapter.
        video: int64[Q], the video that each query belongs to.
        direction: The direction of the queries.
        resamples: Resamples of the videos.
    """
    drawn = bootstrap.resampled(b, video, resamples) - bootstrap.resampled(a, video, resamples)
    low, high = bootstrap.bounds(drawn)
    first, second = summary(a), summary(b)
    return [
        Difference(
            direction,
            metric,
            first[metric],
            second[metric],
            round(second[metric] - first[metric], DECIMALS),
            round(float(low[column]), DECIMALS),
            round(float(high[column]), DECIMALS),
            p_value(drawn[:, column]),
        )
        for column, metric in enumerate(METRICS)
    ]


def p_value(differences: NDArray[np.float64]) -> float:
    """The two-sided p-value of no difference.

    It is twice the smaller ratio of resamples on either side of zero. A resample with difference zero counts on both
    sides. One is added to count and total (Davison and Hinkley, 1997, 4.2.1), so p is never 0, and its smallest value
    shows the number of resamples.
    """
    total = len(differences)
    fewer = min(np.sum(differences <= 0), np.sum(differences >= 0))
    return min(1.0, 2 * (int(fewer) + 1) / (total + 1))


def require_same(
    cards: tuple[ScorecardHead, ScorecardHead],
    tables: tuple[pa.Table, pa.Table],
    paths: tuple[Path, Path],
    split: str,
) -> None:
    """Checks that two scorecards have the same queries, gallery and protocol.

    Raises:
        EvaluationError: They differ. The message names the first difference and both values.
    """
    for name in CARD_FIELDS:
        if name == "protocol":
            one, other = (asdict(card.protocol) for card in cards)
            for key in one:
                _require_equal(f"protocol.{key}", one[key], other[key], paths, split)
        _require_equal(name, getattr(cards[0], name), getattr(cards[1], name), paths, split)
    for column, what in COLUMNS.items():
        first, second = tables[0][column].to_pylist(), tables[1][column].to_pylist()
        if first != second:
            row = next((i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
            at = min(len(first), len(second)) if row is None else row
            values = [repr(rows[at]) if at < len(rows) else "nothing" for rows in (first, second)]
            _require_equal(f"{what} of the queries, row {at}", values[0], values[1], paths, split)


def _require_equal(what: str, a: object, b: object, paths: tuple[Path, Path], split: str) -> None:
    if a != b:
        raise EvaluationError(
            f"the two scorecards differ in {what}, so their ranks are not comparable",
            where=f"{paths[0]} and {paths[1]}, split {split}",
            found=f"{a} and {b}",
            expected="the same in both",
            cure="evaluate both adapters on the same frame store",
        )


def _changes(tables: Sequence[pa.Table], most: int) -> list[Change]:
    """The queries whose rank changed most, up or down. Their order does not depend on which adapter is the first."""
    first, second = tables[0]["rank"], tables[1]["rank"]
    moved = np.abs(pc.subtract(second, first).to_numpy())
    order = np.argsort(-moved, kind="stable")[:most]
    changes = []
    for row in map(int, order):
        if moved[row] > 0:
            direction, video_id, caption = (
                tables[0][name][row].as_py() for name in ("direction", "video_id", "caption")
            )
            changes.append(Change(direction, video_id, caption, first[row].as_py(), second[row].as_py()))
    return changes


def describe(comparison: Comparison) -> str:
    """The comparison as text for a terminal."""
    a, b = comparison.names
    lines = [f"A = {a}, B = {b}, split {comparison.split}, gallery of {comparison.gallery} videos"]
    lines += [f"WARNING: {text}." for text in comparison.warnings]
    for direction, text in DIRECTIONS.items():
        lines += ["", f"{text}, {comparison.queries[direction]} queries"]
        lines.append(f"  {'':5}{'A':>8}{'B':>8}{'B - A':>8}  {'95 % interval':<18}p")
        for row in comparison.differences:
            if row.direction == direction:
                interval = f"[{row.low:+.1f}, {row.high:+.1f}]"
                values = f"{row.a:8.1f}{row.b:8.1f}{row.difference:+8.1f}"
                lines.append(f"  {row.metric:5}{values}  {interval:<18}{_shown_p(row.p, comparison.resamples)}")
    lines += [
        "",
        f"paired bootstrap over videos, {comparison.resamples} resamples; p two-sided; MdR, MnR: lower is better",
    ]
    lines += ["", "queries that changed most (rank in A -> rank in B)" if comparison.changes else "no query changed"]
    for change in comparison.changes:
        query = f'"{change.caption}"' if change.caption is not None else "(video to text)"
        lines.append(f"  {change.rank_a:g} -> {change.rank_b:g}  {change.video_id}  {query}")
    return "\n".join(lines)


def _shown_p(p: float, resamples: int) -> str:
    least = 2 / (resamples + 1)
    return f"<= {least:.4f}" if p <= least else f"{p:.3f}"
