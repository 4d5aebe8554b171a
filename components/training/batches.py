"""Which videos and captions make up each global batch: a pure function of the seed and the epoch.

No state is kept between epochs. So a training can resume at any step, and any number of processes sees the same global
batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.errors import TrainingError
from components.training.settings import TrainingSettings

# Anchors per matrix product when neighbours are looked up.
ANCHOR_BLOCK = 64

# The fewest videos in a batch. A single pair has no negatives, so its loss is always zero.
SHORTEST = 2

Ints = NDArray[np.int64]
LastBatch = Literal["drop", "keep"]


@dataclass(frozen=True)
class Epoch:
    """One epoch's batches.

    Attributes:
        videos: A tuple of S arrays int[b], rows of the training split. No row occurs twice. ``b = B`` except in a short
            last batch.
        captions: A tuple of S arrays int[b, K], the captions of each video that are its positives, all different; -1
            where a video has fewer than K.
    """

    videos: tuple[Ints, ...]
    captions: tuple[Ints, ...]


@dataclass(frozen=True)
class Repeated:
    """Captions that several videos have.

    Attributes:
        of_video: For each video, the numbers of its captions that another video has too.
        videos: For each such caption, the rows of its videos, int[n].
    """

    of_video: tuple[tuple[int, ...], ...]
    videos: tuple[Ints, ...]


def check_sizes(videos: int, settings: TrainingSettings) -> None:
    """Checks that ``videos`` training videos make up a batch, and that a batch has a video for each micro-batch.

    Raises:
        TrainingError: There are fewer videos than one batch, a group is larger than a batch, or a batch has fewer
            videos than micro-batches.
    """
    check_batches(videos, settings.batch_size, settings.batching, settings.hard_group, settings.last_batch)
    if settings.micro_batches != "auto" and settings.micro_batches > settings.batch_size:
        raise TrainingError(
            "more micro-batches than videos in a batch",
            where="training.micro_batches",
            found=settings.micro_batches,
            expected=f"at most training.batch_size, {settings.batch_size}",
        )


def check_workers(workers: int, micro_batches: int) -> None:
    """Checks that every worker gets the same number of micro-batches.

    Raises:
        TrainingError: ``workers`` does not divide ``micro_batches``.
    """
    if micro_batches % workers:
        raise TrainingError(
            "the micro-batches cannot be divided evenly among the workers",
            where="execution.workers",
            found=workers,
            expected=f"a divisor of training.micro_batches, {micro_batches}",
        )


def check_batches(
    videos: int, batch_size: int, batching: Literal["random", "hard"], hard_group: int, last_batch: LastBatch
) -> None:
    """Checks that ``videos`` training videos make up a batch.

    Raises:
        TrainingError: There are fewer videos than one batch (two if a short batch is kept), or a group is larger than
            a batch.
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

    The videos left over at the end of an epoch are dropped, or kept as a short batch if there are at least two.

    ``random`` batches are consecutive parts of a permutation. A ``hard`` batch holds ``B // hard_group - 1`` groups (at
    least one) of ``hard_group`` videos with similar captions. Random other videos fill it up. Negatives that differ in
    few words teach motion, and the random ones keep the whole collection's appearance in view. Grouping looks up each
    anchor's neighbours exactly: ``N / hard_group`` rows of an ``N x N`` similarity, in blocks. That takes
    O(N^2 D / hard_group) per epoch and O(N) memory (10,000 videos: about a second).

    Args:
        caption_counts: The number of captions of each video, all at least 1.
        batch_size: ``B``, global.
        seed: The run's seed.
        batching: ``random`` or ``hard``.
        hard_group: Videos per group.
        neighbours: float[N, D], L2-normalised caption embeddings of the videos. ``hard`` needs them.
        captions_per_video: ``K``, different captions drawn per video. A video with fewer gives all of them.
        last_batch: ``drop`` or ``keep`` a short last batch.
        repeated: Captions that several videos have. Such videos are not put into one ``hard`` group, as long as others
            are left. None puts them there.

    Raises:
        TrainingError: As :func:`check_batches`.
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
        repeated: Repeated | None = None,
    ) -> None:
        self.counts = np.asarray(caption_counts, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.batching = batching
        self.hard_group = hard_group
        self.neighbours = neighbours
        self.captions_per_video = captions_per_video
        self.repeated = repeated
        check_batches(len(self.counts), batch_size, batching, hard_group, last_batch)
        self.last_batch = last_batch
        self.full_steps, rest = divmod(len(self.counts), batch_size)
        self.rest = rest if last_batch == "keep" and rest >= SHORTEST else 0
        self.steps_per_epoch = self.full_steps + bool(self.rest)
        if batching == "hard" and (neighbours is None or len(neighbours) != len(self.counts)):
            raise ValueError("hard batching needs one caption embedding per video")

    def pairs(self, steps: int) -> int:
        """The number of videos in the first ``steps`` steps of a training."""
        epochs, index = divmod(steps, self.steps_per_epoch)
        # Only the last batch of an epoch is short.
        return epochs * (self.full_steps * self.batch_size + self.rest) + index * self.batch_size

    def epoch(self, number: int) -> Epoch:
        """The batches of epoch ``number``, from 0."""
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.counts))
        if self.batching == "hard" and self.full_steps:
            full, left = self._hard(order, rng)
        else:
            full, left = np.split(order, [self.full_steps * self.batch_size])
        videos = [*full.reshape(self.full_steps, self.batch_size), *([left[: self.rest]] if self.rest else [])]
        # For every video, so that a video's captions do not depend on its place in the epoch.
        captions = draw_captions(self.counts, self.captions_per_video, rng)
        return Epoch(tuple(videos), tuple(captions[rows] for rows in videos))

    def _hard(self, order: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """The full batches, int[S, B], and the videos in no full batch."""
        steps = self.full_steps
        per_batch = max(1, self.batch_size // self.hard_group - 1)
        assert self.neighbours is not None
        groups, rest = similar_groups(self.neighbours, order, self.hard_group, steps * per_batch, self.repeated)
        grouped = rng.permutation(groups).reshape(steps, per_batch * self.hard_group)
        singles = self.batch_size - grouped.shape[1]
        filling, left = np.split(rng.permutation(rest), [steps * singles])
        return np.concatenate([grouped, filling.reshape(steps, singles)], axis=1), left


def draw_captions(counts: Ints, number: int, rng: np.random.Generator) -> Ints:
    """Draws ``K`` different captions of every video.

    Args:
        counts: int[N], the number of captions of each video, all at least 1.
        number: ``K``.
        rng: Gives ``K`` numbers per video.

    Returns:
        int[N, K], in the order drawn; -1 where a video has fewer than ``K``.
    """
    drawn = np.full((len(counts), number), -1, dtype=np.int64)
    for k in range(number):
        # An index among the captions not drawn yet, shifted past each drawn one before it.
        chosen = rng.integers(0, np.maximum(counts - k, 1))
        for taken in np.sort(drawn[:, :k], axis=1).T:
            chosen += chosen >= taken
        drawn[:, k] = np.where(counts > k, chosen, -1)
    return drawn


def similar_groups(
    embeddings: NDArray[np.float32], order: Ints, size: int, count: int, repeated: Repeated | None = None
) -> tuple[Ints, Ints]:
    """Greedy groups: the next free video in ``order`` and the free videos nearest to it.

    Args:
        embeddings: float[N, D], L2-normalised.
        order: int[N], a permutation. Anchors are taken in this order.
        size: Videos per group.
        count: The number of groups, at most ``N // size``.
        repeated: Captions that keep their videos out of one group, as long as others are left.

    Returns:
        The groups, int[count, size], anchor first, and the remaining rows, int[N - count * size], in the given order.
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
                if repeated is None:
                    groups.append(_nearest_free(anchor, row, free, size))
                else:
                    groups.append(_nearest_apart(anchor, row, free, size, repeated))
                free[groups[-1]] = False
    return np.stack(groups), order[free[order]]


def _nearest_free(anchor: int, similarity: NDArray[np.float32], free: NDArray[np.bool_], size: int) -> Ints:
    candidates = np.flatnonzero(free & (np.arange(len(free)) != anchor))
    keys = _keys(similarity[candidates])
    if len(candidates) > 4 * size:
        cut = -np.partition(-keys, size - 1)[size - 1]
        kept = np.flatnonzero(keys >= cut)
        candidates, keys = candidates[kept], keys[kept]
    nearest = candidates[np.argsort(-keys, kind="stable")[: size - 1]]
    return np.concatenate([[anchor], nearest]).astype(np.int64)


def _nearest_apart(
    anchor: int, similarity: NDArray[np.float32], free: NDArray[np.bool_], size: int, repeated: Repeated
) -> Ints:
    """As :func:`_nearest_free`, one video after the other, each without a caption of those before."""
    keys, group = _keys(similarity), [anchor]
    left, apart = free.copy(), free.copy()
    while True:
        left[group[-1]] = apart[group[-1]] = False
        for caption in repeated.of_video[group[-1]]:
            apart[repeated.videos[caption]] = False
        if len(group) == size:
            return np.array(group, dtype=np.int64)
        candidates = np.flatnonzero(apart if apart.any() else left)
        # The first of equal values, as in _nearest_free.
        group.append(int(candidates[np.argmax(keys[candidates])]))


def _keys(similarity: NDArray[np.float32]) -> NDArray[np.float64]:
    # The row number decides between equal similarities. Rounding to a grid first makes the choice, and so every batch,
    # independent of the order in which the matrix product adds its terms.
    return np.asarray(np.round(similarity.astype(np.float64), 5), dtype=np.float64)
