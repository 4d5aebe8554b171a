"""Makes the scorecard of an adapter on one split: the head with the metrics, and the rank of each query."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import torch

from components import storage
from components.evaluation import bootstrap
from components.evaluation.card import RANKS_SCHEMA, Direction, Identity, Moments, Rescored, ScorecardHead
from components.evaluation.card_text import describe
from components.evaluation.encode import EncodedSplit
from components.evaluation.metrics import summary, ties
from components.evaluation.parts import Part, parts_of
from components.evaluation.ranks import Ranks, both_directions
from components.evaluation.reversals import BINARY_RULE, binary
from components.frames.writing import write_table
from components.manifest import Manifest

T = TypeVar("T")


@dataclass(frozen=True)
class Scorecard:
    """The metrics of one split.

    Attributes:
        card: The content of ``<split>.json``.
        ranks: A table of :data:`components.evaluation.card.RANKS_SCHEMA` with a row per caption (t2v) and per video
            (v2t).
    """

    card: ScorecardHead
    ranks: pa.Table

    def with_rescored(self, rescored: Mapping[str, Rescored]) -> Scorecard:
        """The same scorecard with re-scored metrics, which have a separate block."""
        return Scorecard(dataclasses.replace(self.card, rescored=dict(rescored)), self.ranks)

    def with_moments(self, moments: Moments | None) -> Scorecard:
        """The same scorecard with the metrics of moments, if the split has any."""
        return Scorecard(dataclasses.replace(self.card, moments=moments), self.ranks)


def make_scorecard(
    encoded: EncodedSplit,
    manifest: Manifest,
    split: str,
    identity: Identity,
    resamples: int = 1000,
    device: torch.device | None = None,
) -> Scorecard:
    """Ranks every query and computes the metrics of the whole split and of each named part.

    :func:`components.evaluation.parts.parts_of` says what the parts are.

    Args:
        encoded: The split's vectors.
        manifest: The task's manifest, which has the protocol.
        split: The name of the split.
        identity: What was evaluated.
        resamples: Resamples of the videos for the intervals.
        device: Where the similarities are computed, None for the CPU.

    Raises:
        EvaluationError: A vector has NaN or Inf, or two parts have one name.
    """
    started = time.perf_counter()
    names = [video.video_id for video in encoded.videos]
    directions = both_directions(
        encoded.text_vectors, encoded.video_vectors, encoded.owner, encoded.present, names, device, encoded.similarity
    )
    seconds = {**encoded.seconds, "ranks": time.perf_counter() - started}
    parts = parts_of(encoded, directions, device)
    choices = binary(encoded, resamples)
    card = ScorecardHead(
        **{field.name: getattr(identity, field.name) for field in dataclasses.fields(identity)},
        split=split,
        protocol=manifest.protocol,
        metrics=_each(parts, lambda part, direction: summary(part.ranks[direction].expected)),
        intervals=_each(
            parts,
            lambda part, direction: bootstrap.intervals(
                part.ranks[direction].expected, part.video[direction], resamples
            ),
        ),
        ties=_each(parts, lambda part, direction: ties(part.ranks[direction])),
        queries=len(encoded.texts),
        gallery=len(encoded.videos),
        subset_queries=_each(parts, lambda part, direction: len(part.ranks[direction].expected)),
        failed_videos=int((~encoded.present).sum()),
        rank_rule="expected rank under ties: 1 + better + ties / 2; videos that failed to decode count as wrong",
        interval_rule=f"{bootstrap.LEVEL} % percentile bootstrap over videos, {resamples} resamples, "
        f"seed {bootstrap.SEED}",
        seconds={name: round(value, 3) for name, value in seconds.items()},
        part_rules={name: part.rule for name, part in parts.items() if part.rule is not None},
        binary=choices,
        binary_rule=BINARY_RULE if choices else None,
    )
    return Scorecard(card, _rank_table(encoded, directions))


def write_scorecard(folder: Path, scorecard: Scorecard) -> None:
    """Writes ``<split>.json``, the same as text in ``<split>.txt``, and ``<split>-ranks.parquet``."""
    split = scorecard.card.split
    write_table(folder / f"{split}-ranks.parquet", scorecard.ranks)
    storage.write_bytes(folder / f"{split}.json", scorecard.card.to_json().encode())
    storage.write_bytes(folder / f"{split}.txt", describe(scorecard.card).encode())


def _each(parts: Mapping[str, Part], rule: Callable[[Part, Direction], T]) -> dict[str, dict[Direction, T]]:
    """The result of ``rule`` by name of the part and direction."""
    return {name: {direction: rule(part, direction) for direction in part.ranks} for name, part in parts.items()}


def _rank_table(encoded: EncodedSplit, directions: Mapping[Direction, Ranks]) -> pa.Table:
    queries: dict[Direction, list[tuple[int, str | None]]] = {
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
