"""The cut-off below which an answer is "nothing found".

Scores of different questions have different levels, so one cosine for all of them fails. A score is therefore compared
with the same question's scores of a fixed set of the collection's videos, the background: how many standard deviations
is it above their median? The deviation is that of the quartiles, which a few similar videos do not move. Captions of
the validation split, with their videos taken out of the collection, tell how high the best wrong answer comes. The
cut-off is the height that only a stated share of them passes, the false alarms.

The captions are asked of the collection that is searched, since the best of many wrong videos scores higher than the
best of few, and of the other validation videos, since those that resemble a caption's video are in its split. Test
captions choose nothing: with them, the false alarms and the right answers that are kept are measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass as plain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from components import storage
from components.config import STRICT
from components.records import read_record, write_record

FILE = "cutoff.json"
FORMAT = 1

# Videos of the background, evenly spaced over the index. It is the same for every question.
BACKGROUND = 1000

# Fewer videos have no middle and deviation to speak of.
FEWEST_VIDEOS = 20

# The distance of the quartiles of a normal distribution, in standard deviations.
QUARTILES = 1.349

# A cut-off that keeps fewer of the right answers would hide more than it says, so it leaves nothing out.
LEAST_KEPT = 0.5

DECIMALS = 4


@dataclass(frozen=True, config=STRICT)
class CutOff:
    """The content of cutoff.json: heights above the background, in standard deviations, each list ascending.

    Attributes:
        format: Version of this format, :data:`FORMAT`.
        adapter_sha256: The adapter of the index.
        videos: The rows of the index.
        absent: The best answer to each validation caption whose videos were taken out.
        right: The right answer to each validation caption.
        tested_absent: The same as ``absent`` for test captions. Empty if the index does not hold the test videos.
        tested_right: The same as ``right`` for test captions.
    """

    format: int
    adapter_sha256: str
    videos: int
    absent: tuple[float, ...]
    right: tuple[float, ...]
    tested_absent: tuple[float, ...] = ()
    tested_right: tuple[float, ...] = ()

    def height(self, false_alarms: float) -> float | None:
        """The height that an answer must exceed. None if there are too few captions for such a small share.

        A new caption without an answer exceeds it with a probability of at most ``false_alarms``, if it is drawn as
        the validation captions were: at most that share of n + 1 exchangeable heights exceeds the one chosen here.
        """
        place = math.ceil((1 - false_alarms) * (len(self.absent) + 1) - 1e-9)
        return self.absent[place - 1] if 0 < place <= len(self.absent) else None

    def limit(self, false_alarms: float) -> float | None:
        """The height below which answers are left out. None if there is none, or if it is not :attr:`sharp` enough."""
        height = self.height(false_alarms)
        return height if height is not None and self.sharp(height) else None

    def sharp(self, height: float) -> bool:
        """Whether at least :data:`LEAST_KEPT` of the right answers to validation captions exceed a height."""
        return not self.right or float(np.mean(np.array(self.right) > height)) >= LEAST_KEPT

    def describe(self, false_alarms: float) -> str:
        """The cut-off and what was measured, in one line."""
        height = self.height(false_alarms)
        if height is None:
            return (
                f"no cut-off: {len(self.absent)} validation captions are too few for {false_alarms:.1%} false alarms, "
                f"which need {math.ceil(1 / false_alarms) - 1}"
            )
        text = (
            f"cut-off at {height:.2f} deviations for {false_alarms:.1%} false alarms, from {len(self.absent)} captions"
        )
        if self.tested_absent and self.tested_right:
            wrong, kept = (np.mean(np.array(found) > height) for found in (self.tested_absent, self.tested_right))
            text += f"; on {len(self.tested_absent)} test captions {wrong:.1%}, with {kept:.1%} of right answers kept"
        elif self.right:
            kept = np.mean(np.array(self.right) > height)
            text += f"; {kept:.1%} of their right answers are kept"
        if not self.sharp(height):
            text += f"; it leaves out nothing, since it keeps less than {LEAST_KEPT:.0%} of the right answers to those"
        return text


@plain(frozen=True)
class Level:
    """The background of one question.

    Attributes:
        scores: ``float32[B]``, ascending: its cosines with the videos of the background.
        middle, deviation: Of these scores, as :func:`levels` gives them.
    """

    scores: NDArray[np.float32]
    middle: float
    deviation: float

    @classmethod
    def of(cls, scores: NDArray[np.float32]) -> Level:
        """The level of a question with these background scores, ``float32[B]`` in any order."""
        middle, deviation = levels(scores[None])
        return cls(np.sort(scores), float(middle[0]), float(deviation[0]))

    def percentile(self, score: float) -> float:
        """The percentage of the background that scores lower. Scores are compared to six decimals."""
        lower = np.searchsorted(np.round(self.scores, 6), np.float32(score), side="left")
        return 100.0 * float(lower) / max(1, len(self.scores))

    def score_at(self, height: float) -> float:
        """The score at a height above the background."""
        return self.middle + height * self.deviation


def levels(scores: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The median of each question's background, and the standard deviation that its quartiles have in a normal one.

    Args:
        scores: ``float32[Q, B]``.

    Returns:
        ``float64[Q]`` twice.
    """
    low, middle, high = np.quantile(scores.astype(np.float64), (0.25, 0.5, 0.75), axis=1)
    # Where all scores are equal, any score above them is infinitely far: a tiny deviation says so in finite numbers.
    return middle, np.maximum((high - low) / QUARTILES, 1e-6)


def background_rows(count: int) -> NDArray[np.int64]:
    """The rows of the background in an index of ``count`` rows, ascending."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    return np.unique(np.linspace(0, count - 1, min(count, BACKGROUND)).round().astype(np.int64))


def write_cutoff(folder: Path, cutoff: CutOff | None) -> None:
    """Writes the cut-off of the index in ``folder``, or deletes that of an earlier index if there is none."""
    if cutoff is None:
        (folder / FILE).unlink(missing_ok=True)
    else:
        write_record(folder / FILE, cutoff)


def read_cutoff(folder: Path, adapter_sha256: str, videos: int) -> CutOff | None:
    """The cut-off of an index. None if it has none, or if the index was replaced or has grown since.

    Raises:
        DataError: The file is damaged.
    """
    path = folder / FILE
    if not storage.exists(path):
        return None
    found = read_record(path, CutOff)
    fits = (found.format, found.adapter_sha256, found.videos) == (FORMAT, adapter_sha256, videos)
    return found if fits else None
