"""The ``evaluation`` block of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT, Count


@dataclass(frozen=True, config=STRICT)
class DualSoftmax:
    """Re-scoring by a softmax over all queries of the split."""

    temperature: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=STRICT)
class QbNorm:
    """Re-scoring by a bank of training queries."""

    beta: Annotated[float, Field(gt=0)]
    top: Count
    bank: Count


@dataclass(frozen=True, config=STRICT)
class EvaluationSettings:
    """How scorecards are made."""

    batch_size: Count
    device: Literal["auto", "cpu", "cuda"]
    bootstrap: Annotated[int, Field(ge=100)]
    rescoring: tuple[Literal["dual_softmax", "qb_norm"], ...]
    dual_softmax: DualSoftmax
    qb_norm: QbNorm
    # New since 0.1, so files without it are right too.
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
