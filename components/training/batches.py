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

# Anchors whose neighbours are looked up with one matrix product.
ANCHOR_BLOCK = 64

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Epoch:
    """One epoch's batches.

    Attributes:
        videos: int[S, B], rows of the training split; no row occurs twice.
        captions: int[S, B], which caption of the video stands for it.
    """

    videos: Ints
    captions: Ints


def check_sizes(videos: int, batch_size: int, batching: Literal["random", "hard"], hard_group: int) -> None:
    """Whether ``videos`` training videos make up a batch.

    Raises:
        TrainingError: fewer videos than one batch, or a group larger than a batch.
    """
    if videos < batch_size:
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
    """Batches of ``B`` videos, one random caption each; the incomplete last batch of an epoch is dropped.

    ``random`` batches are slices of a permutation. A ``hard`` batch holds ``B // hard_group - 1`` groups (at least
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

    Raises:
        TrainingError: fewer videos than one batch, or a group larger than a batch.
    """

    def __init__(
        self,
        caption_counts: Sequence[int],
        batch_size: int,
        seed: int,
        batching: Literal["random", "hard"] = "random",
        hard_group: int = 2,
        neighbours: NDArray[np.float32] | None = None,
    ) -> None:
        self.counts = np.asarray(caption_counts, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.batching = batching
        self.hard_group = hard_group
        self.neighbours = neighbours
        self.steps_per_epoch = len(self.counts) // batch_size
        check_sizes(len(self.counts), batch_size, batching, hard_group)
        if batching == "hard" and (neighbours is None or len(neighbours) != len(self.counts)):
            raise ValueError("hard batching needs one caption embedding per video")

    def epoch(self, number: int) -> Epoch:
        """The batches of epoch ``number``, counted from 0."""
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.counts))
        if self.batching == "hard":
            videos = self._hard(order, rng)
        else:
            videos = order[: self.steps_per_epoch * self.batch_size].reshape(self.steps_per_epoch, self.batch_size)
        # Drawn for every video, so that a video's caption does not depend on its place in the epoch.
        captions = rng.integers(0, self.counts)
        return Epoch(videos, captions[videos])

    def _hard(self, order: Ints, rng: np.random.Generator) -> Ints:
        steps = self.steps_per_epoch
        per_batch = max(1, self.batch_size // self.hard_group - 1)
        assert self.neighbours is not None
        groups, rest = similar_groups(self.neighbours, order, self.hard_group, steps * per_batch)
        grouped = rng.permutation(groups).reshape(steps, per_batch * self.hard_group)
        singles = self.batch_size - grouped.shape[1]
        filling = rng.permutation(rest)[: steps * singles].reshape(steps, singles)
        return np.concatenate([grouped, filling], axis=1)


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
