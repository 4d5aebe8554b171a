"""The best rows for a query: products with all vectors, or with those that an approximate index proposes.

Either way the candidates are scored again in one fixed way. So the result does not depend on the device, on threads or
on how the vectors are cut into blocks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.errors import DataError
from components.precision import numerics
from components.search.near import Near

# Above the noise of float32, below any difference that means something.
SCORE_DECIMALS = 6

# Rows so close to the last place compete for it: twice the noise of a product in float32, and the rounding.
SLACK = 4e-6

# Rows per product. On a CPU their scores stay in its cache.
ROWS = {"cpu": 1 << 16, "cuda": 1 << 22}

# Scores that are held at once.
CHUNK_SCORES = 2**26

# Rows that are scored again at once.
RESCORED = 1 << 13


class Vectors:
    """Vectors on the device that searches them.

    Args:
        blocks: ``float32[n, D]`` each, L2-normalised, at least one. Rows are counted through all of them.
        device: Where the products are computed. On a GPU the vectors are copied there once.
        gone: Ascending rows that do not exist any more. Other rows are numbered as if these were not there.
        near: An approximate index of the first rows. It is used on a CPU.
    """

    def __init__(
        self,
        blocks: Sequence[NDArray[np.float32]],
        device: torch.device,
        gone: NDArray[np.int64] | None = None,
        near: Near | None = None,
    ) -> None:
        self._blocks = tuple(blocks)
        self._starts = np.concatenate([[0], np.cumsum([len(block) for block in blocks], dtype=np.int64)])
        self._gone = np.empty(0, dtype=np.int64) if gone is None else gone
        self.count = int(self._starts[-1]) - len(self._gone)
        self._device = device
        self._near = near.without(self._gone) if near is not None and device.type == "cpu" else None
        with warnings.catch_warnings():
            # Vectors read from a file are read-only. Nothing writes to them here.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self._tensors = [torch.from_numpy(np.asarray(block)).to(device) for block in blocks]

    def best(self, queries: Tensor, top: int) -> list[list[tuple[int, float]]]:
        """Rows and scores of the ``top`` best vectors for each query, the best first.

        Scores are computed in float64 and rounded to six decimals. Equal scores keep the order of the rows.

        Args:
            queries: ``float32[Q, D]``, L2-normalised.
            top: At least 1; fewer come back where there are fewer vectors.

        Raises:
            DataError: A vector is not finite.
        """
        top = min(top, self.count)
        if top == 0:
            return [[] for _ in queries]
        queries = queries.detach().to(self._device, torch.float32)
        near, first = self._near, 0
        found: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)] * len(queries)
        if near is not None and top <= near.most:
            first = near.rows
            found = [near.candidates(query, top) for query in queries.numpy()]
        step = max(1, CHUNK_SCORES // min(ROWS[self._device.type], max(1, int(self._starts[-1]))))
        with torch.inference_mode(), numerics("float32"):
            parts = [rows for part in queries.split(step) for rows in self._candidates(part, top, first)]
        wide = queries.cpu().numpy().astype(np.float64)
        return [
            self._sorted(query, np.concatenate([some, more]), top)
            for query, some, more in zip(wide, found, parts, strict=True)
        ]

    def place(self, query: Tensor, row: int) -> tuple[int, float]:
        """How many rows come before one in the ranking of all, and its score. Scores are those of :meth:`best`.

        Args:
            query: ``float32[D]``, L2-normalised.
            row: The row, counted as :meth:`best` counts.

        Raises:
            DataError: The row's vector is not finite.
        """
        query = query.detach().to(self._device, torch.float32)
        wide = query.cpu().numpy().astype(np.float64)
        own = row + int(np.searchsorted(self._gone - np.arange(len(self._gone)), row, side="right"))
        score = float(self._scores(wide, np.array([own]))[0])
        slack, before = SLACK * max(1.0, abs(score)), 0
        with torch.inference_mode(), numerics("float32"):
            for start, piece in self._pieces(0):
                found = torch.mv(piece, query)
                low, high = np.searchsorted(self._gone, [start, start + len(piece)])
                found[torch.from_numpy(self._gone[low:high] - start).to(found.device)] = -torch.inf
                before += int((found > score + slack).sum())
                # The noise of float32 decides nothing, so what is close is scored again.
                close = ((found - score).abs() <= slack).nonzero().squeeze(1).cpu().numpy() + start
                exact = self._scores(wide, close)
                before += int(((exact > score) | ((exact == score) & (close < own))).sum())
        return before, score + 0.0

    def _candidates(self, queries: Tensor, top: int, first: int) -> list[NDArray[np.int64]]:
        """For each query, the rows from ``first`` on that may be among the best, by products with all vectors."""
        places = [_Places(top) for _ in queries]
        for start, piece in self._pieces(first):
            # A matrix of one row is slower than a vector.
            scores = torch.mv(piece, queries[0])[None] if len(queries) == 1 else queries @ piece.T
            stop = start + len(piece)
            low, high = np.searchsorted(self._gone, [start, stop])
            if high > low:
                scores[:, torch.from_numpy(self._gone[low:high] - start).to(scores.device)] = -torch.inf
            # Several times faster than the maximum along a dimension.
            highest = [float(scores.max())] if len(scores) == 1 else scores.amax(dim=1).tolist()
            for row, (best, place) in enumerate(zip(highest, places, strict=True)):
                if np.isnan(best):
                    raise _not_finite()
                if best >= place.limit:
                    place.add(start, scores[row])
        return [place.rows() for place in places]

    def _pieces(self, first: int) -> Iterator[tuple[int, Tensor]]:
        size = ROWS[self._device.type]
        for start, block in zip(self._starts.tolist(), self._tensors, strict=False):
            for offset in range(max(0, first - start), len(block), size):
                yield start + offset, block[offset : offset + size]

    def _sorted(self, query: NDArray[np.float64], rows: NDArray[np.int64], top: int) -> list[tuple[int, float]]:
        """The best of some rows, scored one by one in float64."""
        rows = np.sort(rows)
        scores = self._scores(query, rows)
        order = np.argsort(-scores, kind="stable")[:top]
        numbers = rows[order] - np.searchsorted(self._gone, rows[order])
        # A sum with 0 turns -0.0, which prints as such, into 0.0.
        return list(zip(numbers.tolist(), (scores[order] + 0.0).tolist(), strict=True))

    def _scores(self, query: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The scores of some rows."""
        parts = [self._products(query, rows[start : start + RESCORED]) for start in range(0, len(rows), RESCORED)]
        scores: NDArray[np.float64] = np.round(np.concatenate([np.empty(0), *parts]), SCORE_DECIMALS)
        if not np.isfinite(scores).all():
            raise _not_finite()
        return scores

    def _products(self, query: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        vectors = np.empty((len(rows), len(query)))
        for number in np.unique(owner):
            mine = owner == number
            vectors[mine] = self._blocks[number][rows[mine] - self._starts[number]]
        # Each row is summed in the same order, whatever rows are next to it. A matrix product does not promise that.
        found: NDArray[np.float64] = (vectors * query).sum(axis=1)
        return found


class _Places:
    """The rows that compete for the first ``top`` places of a query."""

    def __init__(self, top: int) -> None:
        self.top = top
        self.limit = -np.inf
        self._rows: list[Tensor] = []
        self._scores: list[Tensor] = []
        self._held = 0

    def add(self, start: int, scores: Tensor) -> None:
        """Takes the scores of the rows from ``start`` on that reach the limit."""
        if self.limit == -np.inf:
            self._set_limit(scores)
        kept = scores >= self.limit if self.limit > -np.inf else scores > -torch.inf
        chosen = kept.nonzero().squeeze(1)
        self._rows.append(chosen + start)
        self._scores.append(scores[chosen])
        self._held += len(chosen)
        if self._held > 4 * self.top:
            self._shrink()

    def _shrink(self) -> None:
        rows, scores = torch.cat(self._rows), torch.cat(self._scores)
        self._set_limit(scores)
        if self.limit > -np.inf:
            kept = scores >= self.limit
            rows, scores = rows[kept], scores[kept]
        self._rows, self._scores, self._held = [rows], [scores], len(rows)

    def _set_limit(self, scores: Tensor) -> None:
        if len(scores) >= self.top:
            worst = float(torch.topk(scores, self.top, sorted=False).values.amin())
            if worst > -np.inf:  # where rows are gone, fewer may be left than places
                self.limit = max(self.limit, worst - SLACK * max(1.0, abs(worst)))

    def rows(self) -> NDArray[np.int64]:
        """The rows, in any order."""
        if not self._rows:
            return np.empty(0, dtype=np.int64)
        self._shrink()
        found: NDArray[np.int64] = self._rows[0].cpu().numpy()
        return found


def _not_finite() -> DataError:
    return DataError(
        "vectors are not finite",
        where="the index or the query",
        expected="numbers",
        cure="train the adapter again, or set evaluation.precision: float32, then run the index stage",
    )
