"""The loss that a method adds where a training has a caption of every frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

# Scaled scores of texts and videos, float[B, B], to the training's loss of them, float[].
Contrast = Callable[[Tensor], Tensor]


class CaptionLoss(ABC):
    """A loss over frames and their captions, of the whole batch.

    Args:
        width: The numbers that :meth:`rows` gives for each video.
    """

    def __init__(self, width: int) -> None:
        self.width = width

    @abstractmethod
    def rows(self, features: Tensor, mask: Tensor, captions: Tensor) -> Tensor:
        """What the loss needs of each video. A training gathers it over the whole batch.

        Args:
            features: ``float[B, T, E]``, from :meth:`components.methods.base.Method.frame_features`.
            mask: ``bool[B, T]``.
            captions: ``int64[B, T, L]``, a caption of each frame. Those of padding frames have no meaning.

        Returns:
            ``float[B, width]``.
        """

    @abstractmethod
    def loss(self, logits: Tensor, rows: Tensor, contrast: Contrast) -> Tensor:
        """What is added to the training's loss, ``float[]``.

        Args:
            logits: ``float[B, B]``, the scaled scores of the batch: texts in rows, videos in columns.
            rows: ``float[B, width]``, of the same videos.
            contrast: The training's loss of such scores.
        """
