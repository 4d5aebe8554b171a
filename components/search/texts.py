"""Vectors of captions, each encoded once in a run of the index stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.evaluation.encode import encode_texts
from components.methods.base import Method
from components.precision import Precision


class TextVectors:
    """Encodes texts and keeps their vectors.

    Args:
        method: The backbone with the adapter.
        batch_size: Texts per forward pass.
        precision: What the text tower computes in.
    """

    def __init__(self, method: Method, batch_size: int, precision: Precision = "float32") -> None:
        self.method = method.eval()
        self.batch_size = batch_size
        self.precision: Precision = precision
        self._known: dict[str, Tensor] = {}

    def of(self, texts: Sequence[str]) -> Tensor:
        """``float32[Q, D]`` on the CPU, in the order of ``texts`` (at least one)."""
        # Equal texts are encoded again, so that the batches are those of a scorecard, to the last bit.
        if new := [text for text in texts if text not in self._known]:
            self._known |= zip(new, encode_texts(self.method, new, self.batch_size, self.precision), strict=True)
        return torch.stack([self._known[text] for text in texts])
