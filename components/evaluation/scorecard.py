"""The scorecard of an adapter on one split: a card with the metrics, as JSON and as text, and each query's rank."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from components import storage
from components.errors import EvaluationError
from components.evaluation import bootstrap
from components.evaluation.card_text import WHOLE, describe
from components.evaluation.encode import EncodedSplit
from components.evaluation.metrics import summary, ties
from components.evaluation.ranks import Ranks, both_directions
from components.frames.store import write_table
from components.manifest import Manifest
from components.records import read_tree

RANKS_SCHEMA = pa.schema(
    [
        pa.field("direction", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("rank", pa.float64(), nullable=False),
        pa.field("rank_optimistic", pa.int64(), nullable=False),
        pa.field("rank_pessimistic", pa.int64(), nullable=False),
        pa.field("decoded", pa.bool_(), nullable=False),
        pa.field("subsets", pa.list_(pa.string()), nullable=False),
    ]
)


@dataclass(frozen=True)
class Scorecard:
    """Metrics and ranks of one split.

    Attributes:
        card: A mapping that JSON can hold. Except for ``seconds``, it is the same for the same adapter and frames.
        ranks: A table of :data:`RANKS_SCHEMA`, with a row per caption (t2v) and per video (v2t).
    """

    card: dict[str, Any]
    ranks: pa.Table

    def with_rescored(self, figures: Mapping[str, Any]) -> Scorecard:
        """The scorecard with re-scored metrics in a separate block, which no table of plain metrics reads."""
        return Scorecard({**self.card, "rescored": dict(figures)}, self.ranks)


def make_scorecard(
    encoded: EncodedSplit,
    manifest: Manifest,
    split: str,
    identity: Mapping[str, Any],
    resamples: int = 1000,
    device: torch.device | None = None,
) -> Scorecard:
    """Ranks every query and computes the metrics of the whole split and of each named subset.

    The queries of a subset are ranked against the whole gallery. A smaller gallery would make the task easier.

    Args:
        encoded: The split's vectors.
        manifest: The manifest, which gives the protocol.
        split: The name of the split.
        identity: What was evaluated: task, method, seed, parameters and so on. These fields come first in the card.
        resamples: The number of bootstrap resamples for the intervals.
        device: Where the similarities are computed, None for the CPU.

    Raises:
        EvaluationError: A vector contains NaN or Inf.
    """
    started = time.perf_counter()
    names = [video.video_id for video in encoded.videos]
    directions = both_directions(
        encoded.text_vectors, encoded.video_vectors, encoded.owner, encoded.present, names, device
    )
    seconds = {**encoded.seconds, "ranks": time.perf_counter() - started}
    masks = _subset_masks(encoded)
    figures = {
        name: {direction: directions[direction].select(mask) for direction, mask in pair.items()}
        for name, pair in masks.items()
    }
    card = {
        **identity,
        "split": split,
        "protocol": dataclasses.asdict(manifest.protocol),
        "metrics": _each(figures, lambda ranks: summary(ranks.expected)),
        "intervals": _intervals(figures, masks, encoded, resamples),
        "ties": _each(figures, ties),
        "queries": len(encoded.texts),
        "gallery": len(encoded.videos),
        "subset_queries": _each(figures, lambda ranks: len(ranks.expected)),
        "failed_videos": int((~encoded.present).sum()),
        "rank_rule": "expected rank under ties: 1 + better + ties / 2; videos that failed to decode count as wrong",
        "interval_rule": f"{bootstrap.LEVEL} % percentile bootstrap over videos, {resamples} resamples, "
        f"seed {bootstrap.SEED}",
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    return Scorecard(card, _rank_table(encoded, directions))


def write_scorecard(folder: Path, scorecard: Scorecard) -> None:
    """Writes ``<split>.json``, its text in ``<split>.txt``, and ``<split>-ranks.parquet``."""
    split = scorecard.card["split"]
    write_table(folder / f"{split}-ranks.parquet", scorecard.ranks)
    text = json.dumps(scorecard.card, indent=1, ensure_ascii=False) + "\n"
    storage.write_bytes(folder / f"{split}.json", text.encode())
    storage.write_bytes(folder / f"{split}.txt", describe(scorecard.card).encode())


def read_scorecard(folder: Path, split: str) -> dict[str, Any]:
    """The card written by :func:`write_scorecard`.

    Raises:
        EvaluationError: The file is missing or damaged.
    """
    return read_tree(folder / f"{split}.json", error=EvaluationError, cure="run the evaluate stage")


def read_ranks(folder: Path, split: str) -> pa.Table:
    """The table of :data:`RANKS_SCHEMA` written by :func:`write_scorecard`.

    Raises:
        EvaluationError: The file is missing or damaged, or it has other columns.
    """
    path = folder / f"{split}-ranks.parquet"
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise EvaluationError(
            "ranks cannot be read", where=path, found=str(error), cure="run the evaluate stage"
        ) from None
    if not table.schema.equals(RANKS_SCHEMA):
        raise EvaluationError(
            "not a table of ranks", where=path, found=table.schema.names, expected=", ".join(RANKS_SCHEMA.names)
        )
    return table


def _subset_masks(encoded: EncodedSplit) -> dict[str, dict[str, NDArray[np.bool_]]]:
    owner = encoded.owner.numpy()
    names = sorted({name for video in encoded.videos for name in video.subsets})
    inside = {WHOLE: np.ones(len(encoded.videos), dtype=bool)}
    inside.update({name: np.array([name in video.subsets for video in encoded.videos]) for name in names})
    return {name: {"t2v": mask[owner], "v2t": mask} for name, mask in inside.items()}


def _intervals(
    figures: dict[str, dict[str, Ranks]],
    masks: dict[str, dict[str, NDArray[np.bool_]]],
    encoded: EncodedSplit,
    resamples: int,
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Intervals in the same shape as the metrics. Captions are drawn with their video."""
    video = {"t2v": encoded.owner.numpy(), "v2t": np.arange(len(encoded.videos))}
    return {
        name: {
            direction: bootstrap.intervals(ranks.expected, video[direction][masks[name][direction]], resamples)
            for direction, ranks in pair.items()
        }
        for name, pair in figures.items()
    }


def _each(figures: dict[str, dict[str, Ranks]], rule: Any) -> dict[str, dict[str, Any]]:
    return {name: {direction: rule(ranks) for direction, ranks in pair.items()} for name, pair in figures.items()}


def _rank_table(encoded: EncodedSplit, directions: dict[str, Ranks]) -> pa.Table:
    queries: dict[str, list[tuple[int, str | None]]] = {
        "t2v": list(zip(encoded.owner.tolist(), encoded.texts, strict=True)),
        "v2t": [(row, None) for row in range(len(encoded.videos))],
    }
    tables = []
    for direction, ranks in directions.items():
        videos = [encoded.videos[row] for row, _ in queries[direction]]
        columns = {
            "direction": [direction] * len(videos),
            "video_id": [video.video_id for video in videos],
            "caption": [caption for _, caption in queries[direction]],
            "rank": ranks.expected,
            "rank_optimistic": ranks.optimistic,
            "rank_pessimistic": ranks.pessimistic,
            "decoded": [bool(encoded.present[row]) for row, _ in queries[direction]],
            "subsets": [list(video.subsets) for video in videos],
        }
        tables.append(pa.table(columns, schema=RANKS_SCHEMA))
    return pa.concat_tables(tables)
