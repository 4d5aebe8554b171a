"""What an evaluation leaves: ``<split>.json`` and ``<split>-ranks.parquet``. Reading them needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic.dataclasses import dataclass

from components.backbones.spec import BackboneSpec
from components.config import STRICT
from components.errors import EvaluationError
from components.manifest import Protocol
from components.records import read_record

Direction = Literal["t2v", "v2t"]
DIRECTIONS: dict[Direction, str] = {"t2v": "text to video", "v2t": "video to text"}
METRICS = ("R@1", "R@5", "R@10", "MdR", "MnR")
# The name of the whole split, next to the names of its parts.
WHOLE = "all"

Metrics = dict[str, float]
Intervals = dict[str, tuple[float, float]]

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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Parameters:
    """The size of an adapter.

    Attributes:
        trainable: Scalars of the adapter.
        total: Scalars of the backbone.
        share: ``trainable`` divided by ``total``.
        artifact_bytes: Size of the weights file.
    """

    trainable: int
    total: int | None = None
    share: float | None = None
    artifact_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Decoding:
    """How the frames were decoded and stored, under the names in params.yaml."""

    decoder: str | None
    size: int | None
    quality: int | None
    chroma: int | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Identity:
    """What was evaluated, and on which frames. Fields that were added later, or that are not known, are None.

    Attributes:
        task: Key of the task in params.yaml.
        method: Key of the method in params.yaml.
        seed: The training's seed.
        settings: All settings of the method.
        frames: T, the most frames that the store has of a video.
        words: L, the most tokens per text.
        sampling: The sampling rule of the frame store.
        decoding: How its frames were decoded and stored.
        epoch: The epoch that gave the parameters, 0 without training.
        selected_on: The value of ``training.select_on``.
        parameters: The adapter's size.
        backbone: The backbone that the adapter is bound to.
        adapter_sha256: Hash of the adapter's weights file.
        store: Fingerprint of the frame store, without windows and facts.
        precision: What the towers computed in during the evaluation.
        provenance: Commit and package versions of the training.
    """

    task: str
    method: str
    seed: int
    settings: dict[str, Any] | None = None
    frames: int | None = None
    words: int | None = None
    sampling: str | None = None
    decoding: Decoding | None = None
    epoch: int | None = None
    selected_on: str | None = None
    parameters: Parameters | None = None
    backbone: BackboneSpec | None = None
    adapter_sha256: str | None = None
    store: str | None = None
    precision: str | None = None
    provenance: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Ties:
    """How far ties could move the metrics of one direction.

    Attributes:
        queries: Queries with a tie.
        optimistic: Metrics if every tie is broken in favour of the right answer.
        pessimistic: Metrics if every tie is broken against it.
    """

    queries: int
    optimistic: Metrics
    pessimistic: Metrics


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rescored:
    """Metrics after a re-scoring.

    Attributes:
        uses: What the re-scoring uses besides the query.
        settings: Its settings.
        t2v: Metrics of text to video.
        v2t: Metrics of video to text.
    """

    uses: str
    settings: dict[str, int | float]
    t2v: Metrics
    v2t: Metrics

    @property
    def metrics(self) -> dict[Direction, Metrics]:
        """The metrics of both directions."""
        return {"t2v": self.t2v, "v2t": self.v2t}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Binary:
    """How often the right one of two is chosen: a video or its reversal, or the captions of either.

    Attributes:
        queries: Captions or videos that choose.
        accuracy: Right choices in percent. A tie is half right.
        interval: The 95 % interval of the accuracy.
        tied: Queries with a tie.
    """

    queries: int
    accuracy: float
    interval: tuple[float, float]
    tied: int


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Moments:
    """How well texts are found within their videos (:mod:`components.evaluation.moments`).

    Attributes:
        queries: Texts with spans.
        videos: The videos that they belong to.
        failed_videos: Videos of these that could not be decoded. Their queries count as wrong.
        metrics: The metrics, in percent.
        intervals: The 95 % interval of each metric but those by length.
        whole_video: The metrics if the answer to each query is its whole video.
        rule: How spans are found, in words.
    """

    queries: int
    videos: int
    failed_videos: int
    metrics: Metrics
    intervals: Intervals
    whole_video: Metrics
    rule: str


# Fields of a card that are left out of the file if there is nothing in them.
SPARSE = ("rescored", "part_rules", "binary", "binary_rule", "moments")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScorecardHead(Identity):
    """The content of ``<split>.json``. All of it but ``seconds`` is the same for the same adapter and frames.

    Attributes:
        split: The split whose queries were ranked.
        protocol: The protocol of the benchmark.
        metrics: Metrics by part of the split (:data:`WHOLE` for all of it) and direction.
        intervals: The 95 % interval of each metric, in the same shape. Empty in cards of release 0.1.
        ties: How far ties could move the metrics, by part and direction.
        queries: Captions of the split.
        gallery: Videos of the split.
        subset_queries: Queries by part and direction.
        failed_videos: Videos that could not be decoded and count as wrong.
        rank_rule: How ranks are counted, in words.
        interval_rule: How intervals are made, in words.
        seconds: Wall time by step.
        rescored: Metrics by the name of the re-scoring. No table of plain metrics reads them.
        part_rules: How the queries of a part are ranked, in words, if not against the whole gallery.
        binary: The choice between a video and its reversal, where the split has reversals.
        binary_rule: How that choice is counted, in words.
        moments: Texts found within their videos, where the split has texts with spans.
    """

    split: str
    protocol: Protocol
    metrics: dict[str, dict[Direction, Metrics]]
    intervals: dict[str, dict[Direction, Intervals]] = field(default_factory=dict)
    ties: dict[str, dict[Direction, Ties]]
    queries: int
    gallery: int
    subset_queries: dict[str, dict[Direction, int]]
    failed_videos: int
    rank_rule: str
    interval_rule: str | None = None
    seconds: dict[str, float]
    rescored: dict[str, Rescored] = field(default_factory=dict)
    part_rules: dict[str, str] = field(default_factory=dict)
    binary: dict[Direction, Binary] = field(default_factory=dict)
    binary_rule: str | None = None
    moments: Moments | None = None

    @property
    def name(self) -> str:
        """``<method>-<seed>``."""
        return f"{self.method}-{self.seed}"

    def to_json(self) -> str:
        """The text of ``<split>.json``."""
        tree = {name: value for name, value in asdict(self).items() if value or name not in SPARSE}
        tree["backbone"] = self.backbone and self.backbone.to_dict()
        return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def read_scorecard(folder: Path, split: str) -> ScorecardHead:
    """Reads ``<split>.json``.

    Raises:
        EvaluationError: The file is missing or damaged.
    """
    return read_record(folder / f"{split}.json", ScorecardHead, error=EvaluationError, cure="run the evaluate stage")


def read_ranks(folder: Path, split: str) -> pa.Table:
    """Reads ``<split>-ranks.parquet``, a table of :data:`RANKS_SCHEMA` with a row per query.

    Raises:
        EvaluationError: The file is missing or damaged, or has other columns.
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


def text_ranks(folder: Path, split: str) -> Mapping[tuple[str, str], float]:
    """The rank of every text-to-video query of a split, by video id and caption.

    Raises:
        EvaluationError: The table of ranks is missing or damaged.
    """
    rows = read_ranks(folder, split).select(["direction", "video_id", "caption", "rank"]).to_pylist()
    return {(row["video_id"], row["caption"]): row["rank"] for row in rows if row["direction"] == "t2v"}
