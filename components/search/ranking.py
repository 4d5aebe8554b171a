"""From vectors to a ranking of spans: rows that a filter leaves, windows that do not overlap, no near-duplicates.

Suppression and folding look only at what ranks higher. So the beginning of a ranking of all rows is enough, and it
grows until the wanted number of hits is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.moments import fold, suppress
from components.search.index import Index
from components.search.scores import Vectors

# A ranking of too few hits is made again with so many times the rows.
GROWTH = 4

# If a filter leaves at most this share of the rows, they are copied and ranked alone.
FEW = 0.25


@dataclass(frozen=True)
class Ranked:
    """A row of the index in a ranking.

    Attributes:
        row: Its number.
        score: Its rounded cosine with the question.
        folded: Rows of near-duplicates that ranked between this one and the last one.
    """

    row: int
    score: float
    folded: tuple[int, ...] = ()


class Ranking:
    """Ranks the rows of an index.

    Args:
        index: The index.
        device: Where the products are computed.
        max_overlap: The largest intersection over union of two windows of one file in a ranking.
    """

    def __init__(self, index: Index, device: torch.device, max_overlap: float) -> None:
        self.index = index
        self.max_overlap = max_overlap
        self._device = device
        self._vectors = index.searched(device)
        self._has_windows = index.table()["window_of"].null_count < index.count

    def best(
        self,
        queries: Tensor,
        top: int,
        allowed: Sequence[NDArray[np.bool_] | None],
        near_duplicates: float | None,
    ) -> list[list[Ranked]]:
        """The best spans of each question.

        Args:
            queries: ``float32[Q, D]``, L2-normalised.
            top: At least 1; fewer come back where there are fewer.
            allowed: For each question the rows that may answer, ``bool[N]``, or None for all.
            near_duplicates: The cosine from which on a video repeats a better one. None folds nothing.
        """
        found: list[list[Ranked]] = [[] for _ in queries]
        if not self.index.count:
            return found
        plain = [number for number, mask in enumerate(allowed) if mask is None]
        if plain and not self._has_windows and near_duplicates is None:
            for number, best in zip(plain, self._vectors.best(queries[plain], top), strict=True):
                found[number] = [Ranked(row, score) for row, score in best]
            plain = []
        for number, mask in enumerate(allowed):
            if mask is not None or number in plain:
                found[number] = self._grown(queries[number : number + 1], top, mask, near_duplicates)
        return found

    def _grown(
        self, query: Tensor, top: int, mask: NDArray[np.bool_] | None, near_duplicates: float | None
    ) -> list[Ranked]:
        vectors, numbers = self._vectors, None
        if mask is not None and (left := np.flatnonzero(mask)).size <= FEW * self.index.count:
            if not left.size:
                return []
            vectors, numbers, mask = Vectors((self.index.vectors_of(left),), self._device), left, None
        want = top
        while True:
            ranking = [
                (row if numbers is None else int(numbers[row]), score) for row, score in vectors.best(query, want)[0]
            ]
            seen = len(ranking)
            if mask is not None:
                ranking = [(row, score) for row, score in ranking if mask[row]]
            hits = self._distinct(ranking, near_duplicates)
            if len(hits) >= top or seen < want or want >= vectors.count:
                return self._cut(hits, top, ranking)
            want = min(vectors.count, GROWTH * want)

    def _distinct(self, ranking: list[tuple[int, float]], near_duplicates: float | None) -> list[Ranked]:
        """The rows that neither overlap nor repeat a better one."""
        kept = ranking
        if self._has_windows and ranking:
            rows = self.index.table().select(["window_of", "start_seconds", "end_seconds"])
            columns = rows.take([row for row, _ in ranking]).to_pydict()
            # Whole videos are never suppressed, even if an annotation makes several of one file.
            files = [(number, None) if name is None else (-1, name) for number, name in enumerate(columns["window_of"])]
            spans = np.array([columns["start_seconds"], columns["end_seconds"]]).T
            kept = [ranking[place] for place in suppress(files, spans, self.max_overlap)]
        if near_duplicates is None or not kept:
            return [Ranked(row, score) for row, score in kept]
        targets = fold(self.index.vectors_of(np.array([row for row, _ in kept])), near_duplicates)
        repeats: dict[int, list[int]] = {}
        for place, target in enumerate(targets):
            repeats.setdefault(target, []).extend([] if place == target else [kept[place][0]])
        return [Ranked(*kept[place], tuple(rows)) for place, rows in repeats.items()]

    def _cut(self, hits: list[Ranked], top: int, ranking: list[tuple[int, float]]) -> list[Ranked]:
        """The first ``top`` hits. Near-duplicates after the last of them do not count: how many are known varies."""
        if len(hits) <= top:
            return hits
        place = {row: number for number, (row, _) in enumerate(ranking)}
        end = place[hits[top - 1].row]
        return [Ranked(hit.row, hit.score, tuple(row for row in hit.folded if place[row] < end)) for hit in hits[:top]]
