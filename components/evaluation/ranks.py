"""Exactly one rank per query, with a stated rule for ties.

The rank of a query is the expected rank of its right item if equal scores were shuffled:
``1 + #{better} + #{equal others} / 2``. The optimistic rank (``1 + #{better}``) and the pessimistic rank
(``1 + #{better} + #{equal others}``) are returned with it. Released evaluation code counts every tie as a separate
query, or lets a sort decide.

Text-to-video: each caption is a query over all videos. Video-to-text: each video is a query, and the score of a
candidate video is that of its best caption (the published rule where videos have several captions).

Videos without a vector (those that could not be decoded) stay in the gallery in last place. Queries for them get the
last rank, so they count as wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.errors import EvaluationError
from components.evaluation.card import Direction
from components.methods.similarity import DOT, Similarity

# The similarities held at a time. This bounds the memory for any size of gallery. Sizes near the cache's are fastest.
CHUNK_BYTES = 64 * 2**20


# The scores of some queries (a slice of rows) against every candidate.
Scores = Callable[[slice], Tensor]


@dataclass(frozen=True)
class Ranks:
    """Ranks from 1, one per query: float64[Q] expected, int64[Q] optimistic and pessimistic."""

    expected: NDArray[np.float64]
    optimistic: NDArray[np.int64]
    pessimistic: NDArray[np.int64]

    def select(self, mask: NDArray[np.bool_]) -> Ranks:
        """The ranks of the queries marked in ``mask`` (bool[Q])."""
        return Ranks(self.expected[mask], self.optimistic[mask], self.pessimistic[mask])


def both_directions(
    texts: Tensor,
    videos: Tensor,
    owner: Tensor,
    present: Tensor,
    ids: Sequence[str] | None = None,
    device: torch.device | None = None,
    similarity: Similarity = DOT,
) -> dict[Direction, Ranks]:
    """The ranks of ``t2v`` (:func:`text_to_video`) and ``v2t`` (:func:`video_to_text`).

    Args:
        texts, videos, owner, present, ids: As for :func:`text_to_video`, on any device.
        device: Where the similarities are computed, None for the CPU. It changes the time, not the results.
        similarity: The method's similarity.

    Raises:
        EvaluationError: A vector contains NaN or Inf. The message names the ids.
    """
    place = device or torch.device("cpu")
    texts, videos, owner, present = texts.to(place), videos.to(place), owner.to(place), present.to(place)
    return {
        "t2v": text_to_video(texts, videos, owner, present, ids, similarity=similarity),
        "v2t": video_to_text(texts, videos, owner, present, ids, similarity=similarity),
    }


def text_to_video(
    texts: Tensor,
    videos: Tensor,
    owner: Tensor,
    present: Tensor | None = None,
    ids: Sequence[str] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    similarity: Similarity = DOT,
) -> Ranks:
    """The rank of each text's video among all videos.

    Args:
        texts: float[Q, D].
        videos: float[N, D]. The rows of absent videos are ignored.
        owner: int[Q], the row of each text's video.
        present: bool[N], false for videos without a vector. None means that all have one.
        ids: Names of the videos, for messages.
        chunk_bytes: Size of the similarities held at a time. It changes memory, not results.
        similarity: The method's similarity.

    Raises:
        EvaluationError: A vector contains NaN or Inf. The message names the ids.
    """
    present = _checked(texts, videos, owner, present, ids)
    scores = text_scores(texts, videos, present, similarity)
    return rank(scores, owner, similarity.held * len(videos), present[owner], chunk_bytes)


def video_to_text(
    texts: Tensor,
    videos: Tensor,
    owner: Tensor,
    present: Tensor | None = None,
    ids: Sequence[str] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    similarity: Similarity = DOT,
) -> Ranks:
    """The rank of each video's captions among the captions of all videos.

    The score of a video is that of its best caption. The arguments and errors are those of :func:`text_to_video`. There
    is one rank per row of ``videos``.
    """
    present = _checked(texts, videos, owner, present, ids)
    own, width = torch.arange(len(videos), device=videos.device), max(len(texts), len(videos))
    scores = video_scores(videos, texts, owner, len(videos), similarity)
    return rank(scores, own, similarity.held * width, present, chunk_bytes)


def text_scores(texts: Tensor, videos: Tensor, present: Tensor, similarity: Similarity = DOT) -> Scores:
    """The scores of texts, float32[n, N], with -inf for absent videos."""
    # A float32 product of equal vectors may differ in the last bit from column to column. That would hide ties, or make
    # them depend on the chunk. A product in float64 that is then rounded to float32 has no such differences.
    gallery = videos.double()
    return lambda rows: similarity.matrix(texts[rows].double(), gallery).float().masked_fill_(~present, -torch.inf)


def video_scores(queries: Tensor, texts: Tensor, owner: Tensor, videos: int, similarity: Similarity = DOT) -> Scores:
    """The scores of videos, float32[n, N]. The score of a candidate video is that of its best caption.

    Args:
        queries: float[M, D], the videos that are the queries.
        texts: float[Q, D], the captions that are searched.
        owner: int[Q], the candidate video of each caption.
        videos: N, the number of candidates.
        similarity: The method's similarity.
    """
    # Texts of many vectors take much more memory as doubles: a part of them at a time.
    step = len(texts) if similarity.held == 1 else max(1, CHUNK_BYTES // (8 * texts.shape[1]))
    gallery = texts.double() if step >= len(texts) else None
    single = len(texts) == videos and bool((owner == torch.arange(videos, device=owner.device)).all())

    def scores(rows: slice) -> Tensor:
        asked, parts = queries[rows].double(), [gallery] if gallery is not None else texts.split(step)
        found = torch.cat([similarity.transposed(asked, part.double()).float() for part in parts], dim=1)
        return found if single else _best_caption(found, owner, videos)

    return scores


def rank(scores: Scores, own: Tensor, width: int, answerable: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Ranks:
    """Counts better and equal candidates, some queries at a time. Unanswerable queries get the last rank.

    Args:
        scores: A function from some queries to their scores against all candidates.
        own: int[Q], the right candidate of each query.
        width: The most numbers that ``scores`` holds per query. It decides the size of the chunks.
        answerable: bool[Q], false for queries without a right candidate that has a vector.
        chunk_bytes: Size of the similarities held at a time. It changes memory, not results.
    """
    queries = len(own)
    better = torch.empty(queries, dtype=torch.int64)
    equal = torch.empty(queries, dtype=torch.int64)
    for rows in chunks(queries, width, chunk_bytes):
        similarity = scores(rows)
        target = similarity.gather(1, own[rows, None])
        better[rows] = _count(similarity > target)
        equal[rows] = _count(similarity == target) - 1
        wrong = ~answerable[rows].cpu()
        better[rows] = torch.where(wrong, similarity.shape[1] - 1, better[rows])
        equal[rows] = torch.where(wrong, 0, equal[rows])
    optimistic = (1 + better).numpy()
    pessimistic = (1 + better + equal).numpy()
    return Ranks((optimistic + pessimistic) / 2, optimistic, pessimistic)


def chunks(queries: int, width: int, chunk_bytes: int = CHUNK_BYTES) -> list[slice]:
    """Splits the queries into chunks that hold about ``chunk_bytes`` each."""
    # Four bytes of similarity, eight of float64 product, two of comparisons.
    step = max(1, chunk_bytes // (16 * width))
    return [slice(start, min(start + step, queries)) for start in range(0, queries, step)]


def _best_caption(similarity: Tensor, owner: Tensor, videos: int) -> Tensor:
    best = similarity.new_full((len(similarity), videos), -torch.inf)
    return best.scatter_reduce_(1, owner.expand(len(similarity), -1), similarity, "amax")


def _count(marks: Tensor) -> Tensor:
    """The number of true values per row, int64 on the CPU."""
    if marks.device.type == "cpu":  # NumPy counts booleans several times faster than torch
        return torch.from_numpy(np.count_nonzero(marks.numpy(), axis=1))
    return torch.count_nonzero(marks, dim=1).cpu()


def _checked(texts: Tensor, videos: Tensor, owner: Tensor, present: Tensor | None, ids: Sequence[str] | None) -> Tensor:
    if len(owner) != len(texts):
        raise ValueError(f"{len(texts)} texts but {len(owner)} owners")
    if present is None:
        present = torch.ones(len(videos), dtype=torch.bool, device=videos.device)
    names = [str(i) for i in range(len(videos))] if ids is None else list(ids)
    there = present.nonzero().flatten().tolist()
    _finite(videos[present], "video vector", [names[i] for i in there])
    _finite(texts, "text vector", [names[i] for i in owner.tolist()])
    return present


def _finite(values: Tensor, what: str, names: Sequence[str]) -> None:
    bad = (~torch.isfinite(values)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        shown = [names[i] for i in bad[:10]]
        raise EvaluationError(
            f"{len(bad)} {what}(s) with NaN or Inf",
            where=", ".join(shown) + (" ..." if len(bad) > 10 else ""),
            expected="finite numbers",
        )
