"""Symmetric InfoNCE, with one caption per video or several."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(video: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """The mean of the video-to-text and text-to-video cross-entropies (VoP, section 3.1; CLIP, figure 3).

    Args:
        video: float[B, D], L2-normalised.
        text: float[B, D], L2-normalised. Row i belongs to row i of ``video``.
        logit_scale: float[], the factor on the cosine similarity (1 / temperature).

    Returns:
        float[], in nats.
    """
    # Half-precision logits would round away the differences between hard negatives.
    logits = logit_scale.float() * text.float() @ video.float().T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def multi_positive_nce(video: Tensor, text: Tensor, logit_scale: Tensor, owner: Tensor) -> Tensor:
    """:func:`info_nce` for videos ``i`` with several captions ``P_i`` in the batch, all of them positives.

    With ``s_ci`` the scaled similarity of caption c and video i, the mean of::

        text to video   1/B sum_i 1/|P_i| sum_{c in P_i} -log( exp s_ci / sum_j exp s_cj )
        video to text   1/B sum_i 1/|P_i| sum_{c in P_i} -log( exp s_ci / sum_d exp s_di )

    The second is the supervised contrastive loss with the sum outside the logarithm (Khosla et al. 2020, equation 2,
    L_out): it pulls each caption to its video. With the sum inside, one easy caption would satisfy a video, although
    every caption is a query at test time. All videos have the same weight, however many captions they have. With one
    caption per video, both equal those of :func:`info_nce`.

    Args:
        video: float[B, D], L2-normalised.
        text: float[C, D], L2-normalised, C at least B.
        logit_scale: float[], the factor on the cosine similarity.
        owner: int64[C], each caption's row in ``video``, ascending. Every video has a caption.

    Returns:
        float[], in nats.
    """
    if len(text) == len(video):
        return info_nce(video, text, logit_scale)
    logits = logit_scale.float() * text.float() @ video.float().T
    weight = 1 / (torch.bincount(owner) * len(video))[owner]
    both = (F.log_softmax(logits, dim=1) + F.log_softmax(logits, dim=0)).gather(1, owner.unsqueeze(1)).squeeze(1)
    return -(weight * both).sum() / 2
