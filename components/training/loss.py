"""Symmetric InfoNCE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(video: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean of the cross-entropies of video-to-text and text-to-video (VoP, section 3.1; CLIP, figure 3).

    Args:
        video: float[B, D], L2-normalised.
        text: float[B, D], L2-normalised; row i belongs to row i of ``video``.
        logit_scale: float[], the factor on the cosine similarity (1 / temperature).

    Returns:
        float[], in nats.
    """
    # Half-precision logits would round away the differences between hard negatives.
    logits = logit_scale.float() * text.float() @ video.float().T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
