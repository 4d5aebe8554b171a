"""Which videos and captions make up each global batch: a pure function of the seed and the epoch.

Nothing is remembered between epochs, so training resumes at any step, and any number of processes sees the same
global batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.errors import TrainingError
from components.training.settings import TrainingSettings

# Anchors whose neighbours are looked up with one matrix product.
ANCHOR_BLOCK = 64

# A pair alone has no negatives: its loss is zero whatever the method does.
SHORTEST = 2

Ints = NDArray[np.int64]
LastBatch = Literal["drop", "keep"]


@dataclass(frozen=True)
class Epoch:
    """One epoch's batches.

    Attributes:
        videos: a tuple of S arrays int[b], rows of the training split; no row occurs twice. ``b = B`` but in a short
            last batch.
        captions: a tuple of S arrays int[b, K], which captions of each video are its positives, no two the same; -1
            where a video has fewer than K.
    """

    videos: tuple[Ints, ...]
    captions: tuple[Ints, ...]


def check_sizes(videos: int, settings: TrainingSettings) -> None:
    """Whether ``videos`` training videos make up a batch, and batches divide into the workers' micro_batches.

    Raises:
        TrainingError: fewer videos than one batch, a group larger than a batch, more micro_batches than videos in a batch.
    """
    check_batches(videos, settings.batch_size, settings.batching, settings.hard_group, settings.last_batch)
    if settings.micro_batches > settings.batch_size:
        raise TrainingError(
            "more micro_batches than videos in a batch",
            where="training.micro_batches",
            found=settings.micro_batches,
            expected=f"at most training.batch_size, {settings.batch_size}",
        )


def check_workers(workers: int, micro_batches: int) -> None:
    """Whether every worker gets as many micro_batches.

    Raises:
        TrainingError: ``workers`` does not divide ``micro_batches``.
    """
    if micro_batches % workers:
        raise TrainingError(
            "micro_batches of a batch cannot be shared out evenly",
            where="execution.workers",
            found=workers,
            expected=f"a divisor of training.micro_batches, {micro_batches}",
        )


def check_batches(
    videos: int, batch_size: int, batching: Literal["random", "hard"], hard_group: int, last_batch: LastBatch
) -> None:
    """Whether ``videos`` training videos make up a batch.

    Raises:
        TrainingError: fewer videos than one batch (one of two where a short one is kept), or a group larger than a
            batch.
    """
    if last_batch == "keep" and videos < SHORTEST:
        raise TrainingError(
            "no batch with a negative", where="the train split", found=videos, expected=f"at least {SHORTEST} videos"
        )
    if last_batch == "drop" and videos < batch_size:
        raise TrainingError(
            "fewer training videos than one batch",
            where="training.batch_size",
            found=batch_size,
            expected=f"at most {videos}",
        )
    if batching == "hard" and hard_group > batch_size:
        raise TrainingError(
            "a group does not fit a batch",
            where="training.hard_group",
            found=hard_group,
            expected=f"at most training.batch_size, {batch_size}",
        )


class BatchPlan:
    """Batches of ``B`` videos with ``K`` random captions each, the same number of batches in every epoch.

    What is left over at the end of an epoch is dropped, or kept as a short batch if it has a negative.

    ``random`` batches are micro_batches of a permutation. A ``hard`` batch holds ``B // hard_group - 1`` groups (at least
    one) of ``hard_group`` videos with similar captions and is filled up with other videos at random: negatives that
    differ in few words are what teaches motion, and the rest keeps the appearance of the whole collection in view.
    Grouping looks up each anchor's neighbours exactly: ``N / hard_group`` rows of an ``N x N`` similarity, in
    blocks, so O(N^2 D / hard_group) per epoch and O(N) memory (10,000 videos: about a second).

    Args:
        caption_counts: number of captions of each video, all at least 1.
        batch_size: ``B``, global.
        seed: the run's seed.
        batching: ``random`` or ``hard``.
        hard_group: videos per group.
        neighbours: float[N, D], L2-normalised caption embeddings of the videos; needed for ``hard``.
        captions_per_video: ``K``, different captions drawn per video; all of a video that has fewer.
        last_batch: ``drop`` or ``keep`` an incomplete one.

    Raises:
        TrainingError: as :func:`check_batches`.
    """

    def __init__(
        self,
        caption_counts: Sequence[int],
        batch_size: int,
        seed: int,
        batching: Literal["random", "hard"] = "random",
        hard_group: int = 2,
        neighbours: NDArray[np.float32] | None = None,
        captions_per_video: int = 1,
        last_batch: LastBatch = "drop",
    ) -> None:
        self.counts = np.asarray(caption_counts, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.batching = batching
        self.hard_group = hard_group
        self.neighbours = neighbours
        self.captions_per_video = captions_per_video
        check_batches(len(self.counts), batch_size, batching, hard_group, last_batch)
        self.last_batch = last_batch
        self.full_steps, rest = divmod(len(self.counts), batch_size)
        self.rest = rest if last_batch == "keep" and rest >= SHORTEST else 0
        self.steps_per_epoch = self.full_steps + bool(self.rest)
        if batching == "hard" and (neighbours is None or len(neighbours) != len(self.counts)):
            raise ValueError("hard batching needs one caption embedding per video")

    def pairs(self, steps: int) -> int:
        """Videos in the first ``steps`` steps of a training."""
        epochs, index = divmod(steps, self.steps_per_epoch)
        # Only the last batch of an epoch is short.
        return epochs * (self.full_steps * self.batch_size + self.rest) + index * self.batch_size

    def epoch(self, number: int) -> Epoch:
        """The batches of epoch ``number``, counted from 0."""
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.counts))
        if self.batching == "hard" and self.full_steps:
            full, left = self._hard(order, rng)
        else:
            full, left = np.split(order, [self.full_steps * self.batch_size])
        videos = [*full.reshape(self.full_steps, self.batch_size), *([left[: self.rest]] if self.rest else [])]
        # Drawn for every video, so that a video's captions do not depend on its place in the epoch.
        captions = draw_captions(self.counts, self.captions_per_video, rng)
        return Epoch(tuple(videos), tuple(captions[rows] for rows in videos))

    def _hard(self, order: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Full batches, ``int[S, B]``, and the videos in none of them."""
        steps = self.full_steps
        per_batch = max(1, self.batch_size // self.hard_group - 1)
        assert self.neighbours is not None
        groups, rest = similar_groups(self.neighbours, order, self.hard_group, steps * per_batch)
        grouped = rng.permutation(groups).reshape(steps, per_batch * self.hard_group)
        singles = self.batch_size - grouped.shape[1]
        filling, left = np.split(rng.permutation(rest), [steps * singles])
        return np.concatenate([grouped, filling.reshape(steps, singles)], axis=1), left


def draw_captions(counts: Ints, number: int, rng: np.random.Generator) -> Ints:
    """``K`` different captions of every video, in the order drawn.

    Args:
        counts: int[N], captions of each video, all at least 1.
        number: ``K``.
        rng: gives ``K`` numbers per video.

    Returns:
        int[N, K], -1 where a video has fewer than ``K``.
    """
    drawn = np.full((len(counts), number), -1, dtype=np.int64)
    for k in range(number):
        # Among the captions not drawn yet, then past each drawn one that stands before it.
        chosen = rng.integers(0, np.maximum(counts - k, 1))
        for taken in np.sort(drawn[:, :k], axis=1).T:
            chosen += chosen >= taken
        drawn[:, k] = np.where(counts > k, chosen, -1)
    return drawn


def similar_groups(embeddings: NDArray[np.float32], order: Ints, size: int, count: int) -> tuple[Ints, Ints]:
    """Greedy groups: the next free video in ``order`` and the free videos nearest to it.

    Args:
        embeddings: float[N, D], L2-normalised.
        order: int[N], a permutation; decides who is anchor.
        size: videos per group.
        count: groups wanted, at most ``N // size``.

    Returns:
        groups int[count, size], anchor first; the remaining rows int[N - count * size] in the given order.
    """
    free = np.ones(len(order), dtype=bool)
    groups: list[Ints] = []
    position = 0
    while len(groups) < count:
        block: list[int] = []
        while position < len(order) and len(block) < ANCHOR_BLOCK:
            if free[order[position]]:
                block.append(int(order[position]))
            position += 1
        similarity = embeddings[block] @ embeddings.T
        for anchor, row in zip(block, similarity, strict=True):
            if len(groups) < count and free[anchor]:
                groups.append(_nearest_free(anchor, row, free, size))
                free[groups[-1]] = False
    return np.stack(groups), order[free[order]]


def _nearest_free(anchor: int, similarity: NDArray[np.float32], free: NDArray[np.bool_], size: int) -> Ints:
    candidates = np.flatnonzero(free & (np.arange(len(free)) != anchor))
    # Equal similarities are settled by row number: rounding to a grid first makes the choice, and with it every
    # batch, the same whatever order the matrix product added its terms in.
    keys = np.round(similarity[candidates].astype(np.float64), 5)
    if len(candidates) > 4 * size:
        cut = -np.partition(-keys, size - 1)[size - 1]
        kept = np.flatnonzero(keys >= cut)
        candidates, keys = candidates[kept], keys[kept]
    nearest = candidates[np.argsort(-keys, kind="stable")[: size - 1]]
    return np.concatenate([[anchor], nearest]).astype(np.int64)
