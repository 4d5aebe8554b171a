"""Re-scoring: metrics that use more than the query itself. They have separate names and never replace the plain ones.

Dual softmax (Cheng et al., CAMoE, 2021) multiplies each score by its candidate's softmax over *all test queries*,
``s'(q, c) = s(q, c) exp(s(q, c) / t) / sum_p exp(s(p, c) / t)``. A system that answers one query at a time
cannot do this.

QB-Norm (Bogolin et al., CVPR 2022, "Cross Modal Retrieval with Querybank Normalisation", section 3) takes the sum over
a bank of *training* queries: ``s'(q, c) = exp(b s(q, c)) / sum_p exp(b s(p, c))``. Its dynamic form does so only for
queries with a best candidate that is among the best ``k`` of some query in the bank. The other queries keep their
scores.

Both change the matrix that the plain ranks come from. For text-to-video, it has captions against videos. For
video-to-text, it has videos against videos, each with its best caption. The banks are training captions and training
videos. Videos without a vector stay last and are left out of every sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from components.evaluation.card import Direction, Rescored
from components.evaluation.encode import EncodedSplit, encode_texts, encode_videos
from components.evaluation.metrics import summary
from components.evaluation.ranks import CHUNK_BYTES, Ranks, Scores, chunks, rank, text_scores, video_scores
from components.evaluation.settings import EvaluationSettings
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method

USES = {
    "dual_softmax": "all queries of the split at once",
    "qb_norm": "a bank of training queries",
}

# The sums are rounded to this step. Otherwise, equal candidates would not tie if they were summed in another order.
_STEP = 2.0**-30


@dataclass(frozen=True)
class Bank:
    """Training queries of both directions. None of them is in the split under test.

    Attributes:
        texts: float32[B, D], captions.
        videos: float32[M, D].
    """

    texts: Tensor
    videos: Tensor


@dataclass(frozen=True)
class _Side:
    """The queries and candidates of one direction.

    Attributes:
        scores: The scores of the split's queries.
        bank: The scores of the bank's queries against the same candidates, None without a bank.
        bank_size: The number of queries in the bank.
        own: int[Q], the right candidate.
        answerable: bool[Q], false for queries with a right candidate that has no vector.
        asking: bool[Q], false for queries that have no vector themselves.
        width: The most numbers held per query.
    """

    scores: Scores
    bank: Scores | None
    bank_size: int
    own: Tensor
    answerable: Tensor
    asking: Tensor
    width: int


def encode_bank(method: Method, store: FrameStore, reader: FrameReader, settings: EvaluationSettings) -> Bank:
    """Encodes up to ``qb_norm.bank`` training captions and as many training videos, taken at equal distances."""
    size = settings.qb_norm.bank
    captions = [caption for video in store.manifest.split("train") for caption in video.captions]
    batch, precision = settings.batch_size, settings.precision
    return Bank(
        encode_texts(method, _thinned(captions, size), batch, precision),
        encode_videos(method, reader, _thinned(store.ids("train"), size), batch, precision),
    )


def rescored(encoded: EncodedSplit, settings: EvaluationSettings, bank: Bank | None) -> dict[str, Rescored]:
    """For each name in ``settings.rescoring``: the metrics of both directions, what they use, and the settings.

    Args:
        encoded: The split. All of its vectors are finite, which the plain ranks have checked.
        settings: The names and their settings.
        bank: The training queries, which ``qb_norm`` needs.
    """
    blocks: dict[str, Rescored] = {}
    for name in settings.rescoring:
        ranks = rescored_ranks(name, encoded, settings, bank)
        metrics = {direction: summary(both.expected) for direction, both in ranks.items()}
        blocks[name] = Rescored(
            uses=USES[name], settings=asdict(getattr(settings, name)), t2v=metrics["t2v"], v2t=metrics["v2t"]
        )
    return blocks


def rescored_ranks(
    name: str, encoded: EncodedSplit, settings: EvaluationSettings, bank: Bank | None, chunk_bytes: int = CHUNK_BYTES
) -> Mapping[Direction, Ranks]:
    """The ranks of both directions after the re-scoring ``name``.

    Raises:
        ValueError: ``qb_norm`` has no bank.
    """
    ranks: dict[Direction, Ranks] = {}
    for direction, side in _directions(encoded, bank).items():
        if name == "dual_softmax":
            scores = dual_softmax(side.scores, side.asking, side.width, settings.dual_softmax.temperature, chunk_bytes)
        elif side.bank is None:
            raise ValueError("qb_norm needs a bank")
        else:
            beta, top = settings.qb_norm.beta, settings.qb_norm.top
            scores = qb_norm(side.scores, side.bank, side.bank_size, side.width, beta, top, chunk_bytes)
        ranks[direction] = rank(scores, side.own, 3 * side.width, side.answerable, chunk_bytes)
    return ranks


def dual_softmax(
    scores: Scores, asking: Tensor, width: int, temperature: float, chunk_bytes: int = CHUNK_BYTES
) -> Scores:
    """The scores times their softmax over the queries, float64[n, N].

    Args:
        scores: The scores of the split's queries.
        asking: bool[Q], the queries that belong to the sum.
        width: The most numbers held per query.
        temperature: t of the module's equation.
        chunk_bytes: Size of the similarities held at a time.
    """
    total: Tensor | None = None
    for rows in chunks(len(asking), 3 * width, chunk_bytes):
        part = torch.logsumexp(scores(rows)[asking[rows]].double() / temperature, dim=0)
        total = part if total is None else torch.logaddexp(total, part)
    assert total is not None
    sums = _rounded(total)

    def multiplied(rows: slice) -> Tensor:
        own = scores(rows).double()
        return _keep_absent(own, own * torch.exp(own / temperature - sums))

    return multiplied


def qb_norm(
    scores: Scores, bank: Scores, size: int, width: int, beta: float, top: int, chunk_bytes: int = CHUNK_BYTES
) -> Scores:
    """The logarithms of the dynamic inverted softmax, float64[n, N]. They give the same ranks as the softmax.

    Args:
        scores: The scores of the split's queries.
        bank: The scores of the bank's queries against the same candidates.
        size: The number of queries in the bank, at least 1.
        width: The most numbers held per query.
        beta, top: b and k of the module's equation.
        chunk_bytes: Size of the similarities held at a time.
    """
    total: Tensor | None = None
    active: Tensor | None = None
    for rows in chunks(size, 3 * width, chunk_bytes):
        theirs = bank(rows).double()
        part = torch.logsumexp(beta * theirs, dim=0)
        # All candidates that tie for the k-th place count, so their order does not matter.
        last = theirs.topk(min(top, theirs.shape[1]), dim=1).values[:, -1:]
        reached = ((theirs >= last) & (theirs > -torch.inf)).any(dim=0)
        total = part if total is None else torch.logaddexp(total, part)
        active = reached if active is None else active | reached
    assert total is not None
    assert active is not None
    sums, hubs = _rounded(total), active

    def normalised(rows: slice) -> Tensor:
        own = scores(rows).double()
        drawn = ((own == own.amax(dim=1, keepdim=True)) & hubs).any(dim=1, keepdim=True)
        return _keep_absent(own, torch.where(drawn, beta * own - sums, own))

    return normalised


def _directions(encoded: EncodedSplit, bank: Bank | None) -> dict[Direction, _Side]:
    texts, videos, owner, present = encoded.text_vectors, encoded.video_vectors, encoded.owner, encoded.present
    similarity = encoded.similarity
    count, widest = len(videos), max(len(texts), len(videos))
    return {
        "t2v": _Side(
            text_scores(texts, videos, present, similarity),
            text_scores(bank.texts, videos, present, similarity) if bank else None,
            len(bank.texts) if bank else 0,
            owner,
            present[owner],
            torch.ones(len(texts), dtype=torch.bool),
            similarity.held * count,
        ),
        "v2t": _Side(
            video_scores(videos, texts, owner, count, similarity),
            video_scores(bank.videos, texts, owner, count, similarity) if bank else None,
            len(bank.videos) if bank else 0,
            torch.arange(count),
            present,
            present,
            similarity.held * widest,
        ),
    }


def _rounded(sums: Tensor) -> Tensor:
    return torch.round(sums / _STEP) * _STEP


def _keep_absent(plain: Tensor, changed: Tensor) -> Tensor:
    return torch.where(plain == -torch.inf, -torch.inf, changed)


def _thinned(items: Sequence[str], size: int) -> list[str]:
    if len(items) <= size:
        return list(items)
    return [items[number * len(items) // size] for number in range(size)]
