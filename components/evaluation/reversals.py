"""Videos next to their reversals: does a method tell forward from backward?

Three evaluations (RTime, ACM MM 2024), for any split in which videos show others backwards:

- *Origin*: the captions of the originals, against the originals alone. It is the part ``origin``.
- *Hard*: all captions, against originals and reversals. These are the plain metrics of the whole split.
- *Binary*: each caption chooses between its video and that one's reversal, and each video between the captions of both.
  An equal score is half right. So a method that does not see the order of frames gets exactly 50 %.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.evaluation import bootstrap
from components.evaluation.card import Binary, Direction
from components.evaluation.encode import EncodedSplit, reversals

BINARY_RULE = (
    "each caption chooses between its video and that one's reversal, each video between the captions of both; "
    "equal scores are half right, and a video that failed to decode is wrong"
)


def binary(encoded: EncodedSplit, resamples: int) -> dict[Direction, Binary]:
    """The accuracy of both directions. Empty if no video of the split shows another one backwards.

    Args:
        encoded: The split's vectors.
        resamples: Resamples of the pairs of videos for the intervals.
    """
    pairs = reversals(encoded.videos)
    if not pairs:
        return {}
    count = len(encoded.videos)
    partner = torch.full((count,), -1)
    for backwards, forwards in pairs:
        partner[backwards], partner[forwards] = forwards, backwards
    asking = partner[encoded.owner] >= 0
    texts, owner = encoded.text_vectors[asking].double(), encoded.owner[asking]
    videos = encoded.video_vectors.double()
    # Rounded as in components.evaluation.ranks, for the same ties.
    own = encoded.similarity.rows(texts, videos[owner]).float()
    other = encoded.similarity.rows(texts, videos[partner[owner]]).float()
    paired = (partner >= 0).nonzero().flatten()
    best_own = _best(own, owner, count)[paired]
    best_other = _best(other, partner[owner], count)[paired]
    present = encoded.present & encoded.present[partner]
    return {
        "t2v": _accuracy(own, other, present[owner], torch.minimum(owner, partner[owner]), resamples),
        "v2t": _accuracy(best_own, best_other, present[paired], torch.minimum(paired, partner[paired]), resamples),
    }


def _best(scores: Tensor, rows: Tensor, count: int) -> Tensor:
    """The best score for each of ``count`` videos, -inf where there is none."""
    return scores.new_full((count,), -torch.inf).scatter_reduce(0, rows, scores, "amax")


def _accuracy(own: Tensor, other: Tensor, present: Tensor, pair: Tensor, resamples: int) -> Binary:
    tied = (own == other) & present
    right = torch.where(present, (own > other).double() + 0.5 * tied.double(), 0.0)
    low, high = bootstrap.mean_interval(100.0 * right.numpy(), pair.numpy(), resamples)
    return Binary(
        queries=len(own),
        accuracy=round(100.0 * float(right.mean()), bootstrap.DECIMALS),
        interval=(low, high),
        tied=int(tied.sum()),
    )
