"""What is asked: sentences, pictures, videos and videos of the collection, each with a weight.

The vector of a question is the sum of its parts' vectors (L2-normalised) times their weights, L2-normalised again. So
its cosine with a video is the weighted sum of the parts' cosines, divided by one number per question: both orders are
the same. A part with a negative weight pushes away what is like it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from components import storage
from components.errors import ReelTuneError

Kind = Literal["text", "picture", "video", "like"]

WEIGHTED = re.compile(r"\s*(?P<weight>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*\*(?P<rest>.*)", re.DOTALL)

# A number before a star that is no weight: negative, or with a comma.
NEARLY = re.compile(r"\s*[-+]?[\d.,]+\s*\*")

# Below this length, the sum of the parts is their rounding.
SHORTEST = 1e-4


@dataclass(frozen=True)
class Part:
    """One part of a question.

    Attributes:
        kind: ``text``, ``picture`` (a file), ``video`` (a file) or ``like`` (the id of a video of the index).
        value: The text, path, URI or id.
        weight: Its factor. Negative means "unlike this".
    """

    kind: Kind
    value: str
    weight: float = 1.0

    def __str__(self) -> str:
        text = self.value if self.kind == "text" else f"{self.kind} {self.value}"
        size = "" if abs(self.weight) == 1 else f"{abs(self.weight):g}*"
        return f"{'minus ' if self.weight < 0 else ''}{size}{text}"


@dataclass(frozen=True)
class Question:
    """Parts that are asked for together.

    Args:
        parts: At least one, at least one of them with a positive weight.

    Raises:
        ReelTuneError: There is no part, a text is empty, a weight is 0 or not finite, or all weights are negative.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ReelTuneError("nothing is asked", expected="a sentence, picture, video or id to search for")
        for part in self.parts:
            if not part.value.strip():
                what = "the text is empty" if part.kind == "text" else f"the {part.kind} has no name"
                raise ReelTuneError(what, where="question", expected="words to search for")
            if not math.isfinite(part.weight) or part.weight == 0:
                raise ReelTuneError(
                    "a weight must be a number other than 0", where=f"weight of {part.value!r}", found=part.weight
                )
        if all(part.weight < 0 for part in self.parts):
            raise ReelTuneError(
                "all weights are negative",
                where="question",
                found=str(self),
                expected="at least one positive part: a question must say what to look for, not only what to avoid",
            )

    @classmethod
    def of_text(cls, text: str) -> Question:
        """A sentence alone."""
        return cls((Part("text", text),))

    @property
    def is_sentence(self) -> bool:
        """Whether it is one sentence and nothing else."""
        return len(self.parts) == 1 and self.parts[0].kind == "text"

    def __str__(self) -> str:
        return ", ".join(map(str, self.parts))


def weighted(kind: Kind, given: str, sign: int = 1) -> Part:
    """A part as given on the command line: ``snow`` or ``0.5*snow``.

    Args:
        kind: What the part is.
        given: The value, with a factor before it if there is one.
        sign: -1 for what is subtracted.
    """
    match = WEIGHTED.fullmatch(given)
    if match is None and NEARLY.match(given):
        raise ReelTuneError("not a weight", where="question", found=given, expected="as in 0.5*snow; --minus subtracts")
    return Part(kind, match["rest"].strip(), sign * float(match["weight"])) if match else Part(kind, given, float(sign))


def combine(vectors: Tensor, weights: Sequence[float]) -> Tensor:
    """The vector of a question.

    Args:
        vectors: ``float32[P, D]``, L2-normalised.
        weights: P factors.

    Returns:
        ``float32[D]``, L2-normalised. A single vector with a positive weight comes back as it is.

    Raises:
        ReelTuneError: The parts cancel each other out.
    """
    if len(weights) == 1 and weights[0] > 0:
        return vectors[0]
    factors = torch.tensor(weights, dtype=torch.float64, device=vectors.device)
    total = (factors[:, None] * vectors.double()).sum(dim=0)
    if float(total.norm()) < SHORTEST * float(factors.abs().sum()):
        raise ReelTuneError(
            "the parts of the question cancel each other out",
            where="question",
            found=list(weights),
            cure="change a weight, or leave out the part that equals what is subtracted",
        )
    return F.normalize(total, dim=0).float()


def read_questions(path: Path) -> list[Question]:
    """The questions in a text file, one sentence per line. Empty lines do not count.

    Raises:
        DataError: The file is missing or is no text.
        ReelTuneError: It has no question.
    """
    lines = storage.read_text(path).splitlines()
    questions = [Question.of_text(line.strip()) for line in lines if line.strip()]
    if not questions:
        raise ReelTuneError("no question in this file", where=path, expected="one sentence per line")
    return questions
