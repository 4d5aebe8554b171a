"""The ``evaluation`` block of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT, Count


@dataclass(frozen=True, config=STRICT)
class DualSoftmax:
    """Settings of the re-scoring by a softmax over all queries of the split.

    Args:
        temperature: t of the equation in :mod:`components.evaluation.rescoring`.
    """

    temperature: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=STRICT)
class QbNorm:
    """Settings of the re-scoring by a bank of training queries.

    Args:
        beta: b of the equation in :mod:`components.evaluation.rescoring`.
        top: k of the equation.
        bank: The most queries in the bank.
    """

    beta: Annotated[float, Field(gt=0)]
    top: Count
    bank: Count


@dataclass(frozen=True, config=STRICT)
class EvaluationSettings:
    """How scorecards are made.

    Args:
        batch_size: Videos, or texts, per forward pass.
        device: ``auto`` takes a GPU if there is one.
        bootstrap: Resamples of the videos for the intervals.
        rescoring: The re-scorings to report next to the plain metrics.
        dual_softmax: Settings of ``dual_softmax``.
        qb_norm: Settings of ``qb_norm``.
    """

    batch_size: Count
    device: Literal["auto", "cpu", "cuda"]
    bootstrap: Annotated[int, Field(ge=100)]
    rescoring: tuple[Literal["dual_softmax", "qb_norm"], ...]
    dual_softmax: DualSoftmax
    qb_norm: QbNorm
