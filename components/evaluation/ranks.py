"""Exactly one rank per query, ties settled by a named rule.

The rank of a query is the expected rank of its own item if equal scores were shuffled:
``1 + #{better} + #{equal others} / 2``. The optimistic (``1 + #{better}``) and the pessimistic
(``1 + #{better} + #{equal others}``) rank stand beside it. Released evaluation code counts every tie as a query of its
own, or lets a sort decide.

Text-to-video: each caption is a query over all videos. Video-to-text: each video is a query, and a candidate video
scores with the best of its captions (the published rule where videos have several captions).

Videos without a vector (those that could not be decoded) stay in the gallery in last place, and queries for them get
the last rank: they count as wrong, not as absent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.errors import EvaluationError

# Similarities held at a time; bounds memory whatever the size of the gallery, and near a cache's size is fastest.
CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Ranks:
    """Ranks from 1, one per query: float64[Q] expected, int64[Q] optimistic and pessimistic."""

    expected: NDArray[np.float64]
    optimistic: NDArray[np.int64]
    pessimistic: NDArray[np.int64]

    def select(self, mask: NDArray[np.bool_]) -> Ranks:
        """The ranks of the queries marked in ``mask`` (bool[Q])."""
        return Ranks(self.expected[mask], self.optimistic[mask], self.pessimistic[mask])


def text_to_video(
    texts: Tensor,
    videos: Tensor,
    owner: Tensor,
    present: Tensor | None = None,
    ids: Sequence[str] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Ranks:
    """Ranks of each text's own video among all videos.

    Args:
        texts: float[Q, D].
        videos: float[N, D]; rows of absent videos are ignored.
        owner: int[Q], the row of each text's video.
        present: bool[N], false for videos without a vector; None means all are there.
        ids: names of the videos, for messages.
        chunk_bytes: similarities held at a time; changes memory, not results.

    Raises:
        EvaluationError: NaN or Inf in a vector; the message names the ids.
    """
    present = _checked(texts, videos, owner, present, ids)
    gallery = videos.double()

    def scores(rows: slice) -> tuple[Tensor, Tensor]:
        similarity = _similarity(texts[rows], gallery).masked_fill_(~present, -torch.inf)
        return similarity, owner[rows]

    return _ranks(scores, len(texts), len(videos), present[owner], chunk_bytes)


def video_to_text(
    texts: Tensor,
    videos: Tensor,
    owner: Tensor,
    present: Tensor | None = None,
    ids: Sequence[str] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Ranks:
    """Ranks of each video's own captions among all videos' captions; a video scores with its best caption.

    Arguments and errors as for :func:`text_to_video`; there is one rank per row of ``videos``.
    """
    present = _checked(texts, videos, owner, present, ids)
    captions, gallery = len(texts), texts.double()
    single = captions == len(videos) and bool((owner == torch.arange(captions, device=owner.device)).all())

    def scores(rows: slice) -> tuple[Tensor, Tensor]:
        own = torch.arange(rows.start, rows.stop, device=videos.device)
        similarity = _similarity(videos[rows], gallery)
        if not single:
            best = similarity.new_full((len(similarity), len(videos)), -torch.inf)
            similarity = best.scatter_reduce_(1, owner.expand(len(similarity), -1), similarity, "amax")
        return similarity, own

    return _ranks(scores, len(videos), max(captions, len(videos)), present, chunk_bytes)


def from_similarity(similarity: Tensor, owner: Tensor) -> tuple[Ranks, Ranks]:
    """Text-to-video and video-to-text ranks of a ready matrix.

    Args:
        similarity: float[Q, N], texts against videos.
        owner: int[Q], the column of each text's video.

    Raises:
        EvaluationError: NaN or Inf in the matrix.
    """
    _finite(similarity, "similarity", None)
    texts, videos = similarity.shape
    everyone = torch.ones(videos, dtype=torch.bool)
    forward = _ranks(lambda rows: (similarity[rows], owner[rows]), texts, videos, everyone[owner], CHUNK_BYTES)

    def best(rows: slice) -> tuple[Tensor, Tensor]:
        part = similarity.T[rows]
        pooled = part.new_full((len(part), videos), -torch.inf)
        pooled = pooled.scatter_reduce_(1, owner.expand(len(part), -1), part, "amax")
        return pooled, torch.arange(rows.start, rows.stop)

    return forward, _ranks(best, videos, max(texts, videos), everyone, CHUNK_BYTES)


def _ranks(
    scores: Callable[[slice], tuple[Tensor, Tensor]], queries: int, width: int, answerable: Tensor, chunk_bytes: int
) -> Ranks:
    """Counts better and equal candidates, some queries at a time; unanswerable queries get the last rank."""
    # Four bytes of similarity, eight of float64 product, two of comparisons.
    step = max(1, chunk_bytes // (16 * width))
    better = torch.empty(queries, dtype=torch.int64)
    equal = torch.empty(queries, dtype=torch.int64)
    for start in range(0, queries, step):
        rows = slice(start, min(start + step, queries))
        similarity, own = scores(rows)
        target = similarity.gather(1, own[:, None])
        better[rows] = _count(similarity > target)
        equal[rows] = _count(similarity == target) - 1
        wrong = ~answerable[rows].cpu()
        better[rows] = torch.where(wrong, similarity.shape[1] - 1, better[rows])
        equal[rows] = torch.where(wrong, 0, equal[rows])
    optimistic = (1 + better).numpy()
    pessimistic = (1 + better + equal).numpy()
    return Ranks((optimistic + pessimistic) / 2, optimistic, pessimistic)


def _count(marks: Tensor) -> Tensor:
    """How many of each row are true, int64 on the CPU, where NumPy counts booleans several times faster than torch."""
    if marks.device.type == "cpu":
        return torch.from_numpy(np.count_nonzero(marks.numpy(), axis=1))
    return torch.count_nonzero(marks, dim=1).cpu()


def _similarity(queries: Tensor, gallery: Tensor) -> Tensor:
    # A float32 product of equal vectors may differ in the last bit from column to column, which would hide ties or
    # make them depend on the chunk; rounded down from float64 it does not.
    return (queries.double() @ gallery.T).float()


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


def _finite(values: Tensor, what: str, names: Sequence[str] | None) -> None:
    bad = (~torch.isfinite(values)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        shown = [names[i] if names is not None else str(i) for i in bad[:10]]
        raise EvaluationError(
            f"{len(bad)} {what}(s) with NaN or Inf",
            where=", ".join(shown) + (" ..." if len(bad) > 10 else ""),
            expected="finite numbers",
        )
