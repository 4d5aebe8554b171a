"""The best rows for a query, exactly: a product with all vectors, then a partial sort."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.precision import numerics

# Above the noise of float32, below any difference that means something.
SCORE_DECIMALS = 6

# Scores that are held at once.
CHUNK_SCORES = 2**28


class Vectors:
    """Vectors on the device that searches them.

    Args:
        blocks: ``float32[n, D]`` each, L2-normalised, at least one. Rows are counted through all of them.
        device: Where the product is computed. The vectors are copied there once.
    """

    def __init__(self, blocks: Sequence[NDArray[np.float32]], device: torch.device) -> None:
        vectors = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        self.count = len(vectors)
        with warnings.catch_warnings():
            # Vectors read from a file may be read-only. Nothing writes to them here.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self._vectors = torch.from_numpy(np.ascontiguousarray(vectors)).to(device)

    def best(self, queries: Tensor, top: int) -> list[list[tuple[int, float]]]:
        """Rows and scores of the ``top`` best vectors for each query, the best first.

        Scores are rounded to six decimals, so that the order of two equal vectors does not depend on how the product
        was split into blocks. Equal scores keep the order of the rows.

        Args:
            queries: ``float32[Q, D]``, L2-normalised.
            top: At least 1; fewer come back where there are fewer vectors.
        """
        chunk = max(1, CHUNK_SCORES // max(1, self.count))
        with torch.inference_mode(), numerics("float32"):
            parts = queries.to(self._vectors.device, torch.float32).split(chunk)
            return [best for part in parts for best in self._best(part, min(top, self.count))]

    def _best(self, queries: Tensor, top: int) -> list[list[tuple[int, float]]]:
        scores = torch.round(queries @ self._vectors.T, decimals=SCORE_DECIMALS)
        if top == 0:
            return [[] for _ in scores]
        # topk may return any of several equal rows at its end: all that reach the last score compete.
        limits = torch.topk(scores, top, dim=1, sorted=False).values.amin(dim=1)
        found = []
        for row, limit in zip(scores, limits, strict=True):
            rows = (row >= limit).nonzero().squeeze(1)
            order = torch.sort(row[rows], descending=True, stable=True)
            chosen = rows[order.indices[:top]].tolist()
            found.append(list(zip(chosen, order.values[:top].tolist(), strict=True)))
        return found
