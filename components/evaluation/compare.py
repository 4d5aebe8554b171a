"""Two adapters on the same queries: is the difference more than the choice of videos?

A paired bootstrap (Efron and Tibshirani, 1993; Koehn, EMNLP 2004): both adapters' figures are taken on the same draws
of videos, and the interval and the p-value are those of their difference. Seeds of a training are another source of
chance, which one scorecard per method does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.errors import EvaluationError
from components.evaluation import bootstrap
from components.evaluation.card_text import DIRECTIONS, warnings_of
from components.evaluation.metrics import DECIMALS, summary
from components.evaluation.scorecard import read_ranks, read_scorecard
from components.layout import Layout

# What must be equal in both cards, in the order in which a difference is named.
CARD_KEYS = ("split", "protocol", "rank_rule", "gallery", "queries", "failed_videos")
# What must be equal row by row.
ROW_KEYS = {"direction": "directions", "video_id": "videos", "caption": "captions", "decoded": "decoded videos"}


@dataclass(frozen=True)
class Difference:
    """One figure of both adapters.

    Attributes:
        direction: t2v or v2t.
        figure: R@1 and so on.
        a, b: of either adapter.
        difference: b - a.
        low, high: 95 % interval of the difference.
        p: two-sided, of no difference.
    """

    direction: str
    figure: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Change:
    """One query whose rank changed; ``caption`` is None where the query is the video."""

    direction: str
    video_id: str
    caption: str | None
    rank_a: float
    rank_b: float


@dataclass(frozen=True)
class Comparison:
    """The outcome.

    Attributes:
        names: of both adapters.
        split: which videos.
        queries: per direction.
        gallery: videos ranked.
        resamples: of the videos.
        differences: per direction and figure.
        changes: the queries that changed most.
        warnings: of either card.
    """

    names: tuple[str, str]
    split: str
    queries: dict[str, int]
    gallery: int
    resamples: int
    differences: list[Difference]
    changes: list[Change]
    warnings: list[str]


def scorecard_folder(root: Path, name: str) -> Path:
    """The folder that ``name`` means: a path, or ``task/method-seed``.

    Raises:
        EvaluationError: neither is a folder.
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
    """Compares the scorecards of two folders.

    Args:
        a, b: folders written by the evaluate stage.
        split: test or val.
        resamples: of the videos.
        most: how many changed queries are listed.

    Raises:
        EvaluationError: a file is missing or damaged, or the two were not made from the same queries, gallery and
            protocol; the message names the first difference.
    """
    cards = read_scorecard(a, split), read_scorecard(b, split)
    tables = read_ranks(a, split), read_ranks(b, split)
    require_same(cards, tables, (a, b), split)
    ranks = [table["rank"].to_numpy() for table in tables]
    videos, directions = tables[0]["video_id"].to_numpy(), tables[0]["direction"].to_numpy()
    differences = []
    for direction in DIRECTIONS:
        mine = directions == direction
        _, video = np.unique(videos[mine], return_inverse=True)
        differences += compare_ranks(ranks[0][mine], ranks[1][mine], video, direction, resamples)
    return Comparison(
        names=(_name(cards[0], a), _name(cards[1], b)),
        split=split,
        queries={direction: int((directions == direction).sum()) for direction in DIRECTIONS},
        gallery=cards[0]["gallery"],
        resamples=resamples,
        differences=differences,
        changes=_changes(tables, most),
        warnings=[
            f"{_name(card, path)}: {text}"
            for card, path in zip(cards, (a, b), strict=True)
            for text in warnings_of(card)
        ],
    )


def compare_ranks(
    a: NDArray[np.float64], b: NDArray[np.float64], video: NDArray[np.int64], direction: str, resamples: int
) -> list[Difference]:
    """Differences of every figure on the same queries.

    Args:
        a, b: float64[Q], ranks of the same queries.
        video: int64[Q], which video each query belongs to.
        direction: for the result.
        resamples: of the videos.
    """
    drawn = bootstrap.resampled(b, video, resamples) - bootstrap.resampled(a, video, resamples)
    low, high = bootstrap.bounds(drawn)
    figures = summary(a), summary(b)
    return [
        Difference(
            direction,
            figure,
            figures[0][figure],
            figures[1][figure],
            round(figures[1][figure] - figures[0][figure], DECIMALS),
            round(float(low[column]), DECIMALS),
            round(float(high[column]), DECIMALS),
            p_value(drawn[:, column]),
        )
        for column, figure in enumerate(bootstrap.FIGURES)
    ]


def p_value(differences: NDArray[np.float64]) -> float:
    """Two-sided p of no difference: twice the smaller share of resamples on either side of zero, zero itself on both.

    One is added to count and total (Davison and Hinkley, 1997, 4.2.1): p is never 0, and its least value says how many
    resamples there were.
    """
    total = len(differences)
    fewer = min(np.sum(differences <= 0), np.sum(differences >= 0))
    return min(1.0, 2 * (int(fewer) + 1) / (total + 1))


def require_same(
    cards: tuple[dict[str, Any], dict[str, Any]],
    tables: tuple[pa.Table, pa.Table],
    paths: tuple[Path, Path],
    split: str,
) -> None:
    """Refuses two scorecards whose queries, gallery or protocol differ.

    Raises:
        EvaluationError: names the first difference and both values.
    """
    for key in CARD_KEYS:
        one, other = (card.get(key) for card in cards)
        if isinstance(one, dict) and isinstance(other, dict):
            for name in {**one, **other}:
                _require_equal(f"{key}.{name}", one.get(name), other.get(name), paths, split)
        _require_equal(key, one, other, paths, split)
    for column, what in ROW_KEYS.items():
        first, second = tables[0][column].to_pylist(), tables[1][column].to_pylist()
        if first != second:
            row = next((i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
            at = min(len(first), len(second)) if row is None else row
            one, other = (repr(rows[at]) if at < len(rows) else "nothing" for rows in (first, second))
            _require_equal(f"{what} of the queries, row {at}", one, other, paths, split)


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
    """The queries whose rank changed most, up or down; the order does not depend on which is first."""
    first, second = tables[0]["rank"], tables[1]["rank"]
    moved = np.abs(pc.subtract(second, first).to_numpy())
    order = np.argsort(-moved, kind="stable")[:most]
    found = []
    for row in map(int, order):
        if moved[row] > 0:
            direction, video_id, caption = (
                tables[0][name][row].as_py() for name in ("direction", "video_id", "caption")
            )
            found.append(Change(direction, video_id, caption, first[row].as_py(), second[row].as_py()))
    return found


def _name(card: dict[str, Any], path: Path) -> str:
    return f"{card['method']}-{card['seed']}" if "method" in card and "seed" in card else path.name


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
                figures = f"{row.a:8.1f}{row.b:8.1f}{row.difference:+8.1f}"
                lines.append(f"  {row.figure:5}{figures}  {interval:<18}{_shown_p(row.p, comparison.resamples)}")
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
