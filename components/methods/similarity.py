"""How near a text is to a video, for the vectors that a method makes of them."""

from __future__ import annotations

from torch import Tensor


class Similarity:
    """The dot product of a text's and a video's vector, which is their cosine where both are L2-normalised.

    Attributes:
        held: The most numbers that a similarity holds for each pair of a text and a video while it computes.
    """

    held: int = 1

    def matrix(self, texts: Tensor, videos: Tensor) -> Tensor:
        """All texts with all videos: ``float[Q, W_t], float[N, W_v] -> float[Q, N]``. It is linear in the texts."""
        return texts @ videos.T

    def transposed(self, videos: Tensor, texts: Tensor) -> Tensor:
        """All videos with all texts: ``float[N, W_v], float[Q, W_t] -> float[N, Q]``."""
        return videos @ texts.T

    def rows(self, texts: Tensor, videos: Tensor) -> Tensor:
        """Each text with the video of its row: ``float[n, W_t], float[n, W_v] -> float[n]``."""
        return (texts * videos).sum(dim=1)

    def same(self, videos: Tensor, others: Tensor, tolerance: float) -> Tensor:
        """Whether each video is as near to every text as the other one in its row, up to rounding.

        Args:
            videos: ``float[N, W_v]``.
            others: ``float[N, W_v]``.
            tolerance: The largest difference of a coordinate that counts as rounding.

        Returns:
            ``bool[N]``.
        """
        return (videos - others).abs().amax(dim=1) <= tolerance


DOT = Similarity()
