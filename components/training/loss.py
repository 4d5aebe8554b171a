"""Symmetric InfoNCE and the sigmoid loss, with one caption per video or several, also where videos share captions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from components.methods.similarity import DOT, Similarity


def info_nce(video: Tensor, text: Tensor, logit_scale: Tensor, similarity: Similarity = DOT) -> Tensor:
    """The mean of the video-to-text and text-to-video cross-entropies (VoP, section 3.1; CLIP, figure 3).

    Args:
        video: float[B, D], L2-normalised.
        text: float[B, D], L2-normalised. Row i belongs to row i of ``video``.
        logit_scale: float[], the factor on the cosine similarity (1 / temperature).
        similarity: The method's similarity, as in the other losses. It decides the width of the vectors.

    Returns:
        float[], in nats.
    """
    return _cross_entropies(scaled_scores(video, text, logit_scale, similarity))


def _cross_entropies(logits: Tensor) -> Tensor:
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def multi_positive_nce(
    video: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    owner: Tensor,
    same_text: Tensor | None = None,
    positives: bool = False,
    similarity: Similarity = DOT,
) -> Tensor:
    """:func:`info_nce` for videos ``i`` with several captions ``P_i`` in the batch, all of them positives.

    With ``s_ci`` the scaled similarity of caption c and video i, the mean of::

        text to video   1/B sum_i 1/|P_i| sum_{c in P_i} -log( exp s_ci / sum_j exp s_cj )
        video to text   1/B sum_i 1/|P_i| sum_{c in P_i} -log( exp s_ci / sum_d exp s_di )

    The second is the supervised contrastive loss with the sum outside the logarithm (Khosla et al. 2020, equation 2,
    L_out): it pulls each caption to its video. With the sum inside, one easy caption would satisfy a video, although
    every caption is a query at test time. All videos have the same weight, however many captions they have. With one
    caption per video, both equal those of :func:`info_nce`.

    A caption with the text of another video's caption describes that video too (``same_text``). By default, the other
    video is a negative like any other. Otherwise such pairs are left out of both denominators, or, as ``positives``,
    the right answers to a query are taken together (MIL-NCE, Miech et al. 2020, equation 1)::

        text to video   -log( sum_{j that c describes} exp s_cj / sum_j exp s_cj )
        video to text   -log( sum_{d with c's text} exp s_di / sum_d exp s_di )

    L_out over such pairs would change nothing: equal captions share their videos already, one video each.

    Args:
        video: float[B, D], L2-normalised.
        text: float[C, D], L2-normalised, C at least B.
        logit_scale: float[], the factor on the cosine similarity.
        owner: int64[C], each caption's row in ``video``, ascending. Every video has a caption.
        same_text: int64[C], from :func:`shared_texts`. None if no two videos have the same text, or if such videos are
            negatives.
        positives: Whether a caption and the other videos that it describes are positives, not left out.
        similarity: The method's similarity.

    Returns:
        float[], in nats.
    """
    return nce_of_scores(scaled_scores(video, text, logit_scale, similarity), owner, same_text, positives)


def nce_of_scores(logits: Tensor, owner: Tensor, same_text: Tensor | None = None, positives: bool = False) -> Tensor:
    """:func:`multi_positive_nce` of scaled similarities ``float[C, B]``, captions in rows and videos in columns."""
    captions, videos = logits.shape
    if same_text is None and captions == videos:
        return _cross_entropies(logits)
    weight = 1 / (torch.bincount(owner) * videos)[owner]
    if same_text is not None:
        return -(weight * _shared(logits, owner, same_text, positives)).sum() / 2
    both = (F.log_softmax(logits, dim=1) + F.log_softmax(logits, dim=0)).gather(1, owner.unsqueeze(1)).squeeze(1)
    return -(weight * both).sum() / 2


def sigmoid_loss(
    video: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    owner: Tensor,
    same_text: Tensor | None = None,
    positives: bool = False,
    similarity: Similarity = DOT,
) -> Tensor:
    """Every pair of a caption and a video as a yes-or-no question (SigLIP, Zhai et al. 2023, equation 1).

    With ``s_ci`` the scaled similarity plus the bias, and ``z_ci`` 1 if caption c belongs to video i and -1 if not::

        1/B sum_i 1/|P_i| sum_{c in P_i} sum_j -log sigmoid(z_cj s_cj)

    Args:
        video: float[B, D], L2-normalised.
        text: float[C, D], L2-normalised, C at least B.
        logit_scale: float[], the factor on the cosine similarity.
        logit_bias: float[], added to it.
        owner: int64[C], each caption's row in ``video``.
        same_text: int64[C], from :func:`shared_texts`. None if no two videos have the same text, or if such videos are
            negatives.
        positives: Whether a caption and the other videos that it describes are positives. If not, such pairs are left
            out.
        similarity: The method's similarity.

    Returns:
        float[], in nats.
    """
    logits = scaled_scores(video, text, logit_scale, similarity) + logit_bias.float()
    belongs = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, owner.unsqueeze(1), True)
    weight = (1 / (torch.bincount(owner) * len(video))[owner]).unsqueeze(1)
    if same_text is not None:
        described = _describes(same_text, owner, belongs)
        weight = weight if positives else weight * (belongs | ~described)
        belongs = described if positives else belongs
    return -(weight * F.logsigmoid(torch.where(belongs, logits, -logits))).sum()


def shared_texts(tokens: Tensor, owner: Tensor) -> Tensor | None:
    """The number of each caption's text.

    Args:
        tokens: int64[C, L]. Texts are the same if their tokens are, also if they differ after L tokens.
        owner: int64[C], each caption's video.

    Returns:
        int64[C], the same number for the same text; None if no two videos have the same text.
    """
    _, text = torch.unique(tokens, dim=0, return_inverse=True)
    pairs = torch.unique(torch.stack([text, owner]), dim=1)
    return text if len(pairs[0]) > len(torch.unique(text)) else None


def scaled_scores(video: Tensor, text: Tensor, logit_scale: Tensor, similarity: Similarity = DOT) -> Tensor:
    """The scaled similarities ``float[C, B]`` of captions ``float[C, D]`` and videos ``float[B, D]``."""
    # Half-precision logits would round away the differences between hard negatives.
    return similarity.matrix(logit_scale.float() * text.float(), video.float())


def _shared(logits: Tensor, owner: Tensor, same_text: Tensor, positives: bool) -> Tensor:
    """The sum of both log-probabilities of each caption, float[C], where texts describe several videos."""
    describes = _describes(same_text, owner, logits)
    to_video = to_text = logits.gather(1, owner.unsqueeze(1)).squeeze(1)
    if positives:
        # Few captions are shared, so only these get a column of all captions with their text.
        shared = torch.nonzero(describes.sum(dim=1) > 1).squeeze(1)
        right = (same_text[:, None] == same_text[shared]) & (owner[:, None] != owner[shared])
        right[shared, torch.arange(len(shared), device=shared.device)] = True
        columns = logits[:, owner[shared]].masked_fill(~right, -torch.inf)
        to_text = to_text.index_copy(0, shared, columns.logsumexp(dim=0))
        to_video = logits.masked_fill(~describes, -torch.inf).logsumexp(dim=1)
    else:
        own = torch.zeros_like(describes).scatter_(1, owner.unsqueeze(1), True)
        logits = logits.masked_fill(describes & ~own, -torch.inf)
    return to_video - logits.logsumexp(dim=1) + to_text - logits.logsumexp(dim=0)[owner]


def _describes(same_text: Tensor, owner: Tensor, like: Tensor) -> Tensor:
    """Which captions describe which videos, ``bool[C, B]``, where equal captions describe the videos of all of them."""
    describes = torch.zeros_like(like, dtype=torch.bool)
    describes[same_text, owner] = True
    return describes[same_text]
