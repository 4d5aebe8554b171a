"""Late interaction: a video keeps a vector per frame, a text one per word, and each word looks for its best frame.

With ``f_t`` the L2-normalised features of frame t and ``w_l`` those of word l::

    s(text, video) = sum_l a_l max_t cos(w_l, f_t)        a = softmax over the words of u . x_l

where ``x_l`` are word l's features before normalisation. ``weights: learned`` trains u (E scalars, zero at the start):
the text half of DRL's weighted token-wise interaction (Wang et al., 2022, with one linear map). ``weights: mean`` has
``a_l = 1 / words``, which is Video-ColBERT's MeanMaxSim over frames (Reddy et al., CVPR 2025). Left out are DRL's
second half (each frame looks for its best word) and Video-ColBERT's second level (the same over temporally mixed
frames). The words of a text are its tokens without the start token, and the end token that CLIP reads out is one.

A word's features are the text tower's at its column, through CLIP's last norm and projection. CLIP has trained only
those of the end token, so the head is of use next to a method that trains the text tower (``method: [lora, late]``).

A video is one row of T E numbers, its frames one after the other. Padding repeats the first frame, which changes no
maximum. A text is one row of L E numbers, ``a_l w_l`` one after the other, zeros at padding.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.hooks import Hooks
from components.config import STRICT
from components.methods.base import Method, TrainedSettings
from components.methods.similarity import Similarity


@dataclass(frozen=True, config=STRICT)
class LateSettings(TrainedSettings):
    """Settings of the head.

    Attributes:
        weights: Whether the weights of words are ``learned``, or each word counts the same (``mean``).
    """

    weights: Literal["learned", "mean"] = "learned"


class MaxSim(Similarity):
    """The sum over a text's words of the best dot product with a frame.

    Args:
        width: E, the numbers per frame and word.
        frames: T, the frames per video.
    """

    def __init__(self, width: int, frames: int) -> None:
        self.width, self.held = width, frames

    def matrix(self, texts: Tensor, videos: Tensor) -> Tensor:
        frames = videos.reshape(-1, self.width).T
        total = texts.new_zeros(len(texts), len(videos))
        # One word of every text at a time: all at once would hold L times as much.
        for word in texts.split(self.width, dim=1):
            total = total + (word @ frames).unflatten(1, (len(videos), -1)).amax(dim=2)
        return total

    def transposed(self, videos: Tensor, texts: Tensor) -> Tensor:
        return self.matrix(texts, videos).T

    def rows(self, texts: Tensor, videos: Tensor) -> Tensor:
        words, frames = texts.unflatten(1, (-1, self.width)), videos.unflatten(1, (-1, self.width))
        return (words @ frames.transpose(1, 2)).amax(dim=2).sum(dim=1)

    def same(self, videos: Tensor, others: Tensor, tolerance: float) -> Tensor:
        found = []
        for pair in zip(videos, others, strict=True):
            one, other = (video.view(-1, self.width) for video in pair)
            near = (one[:, None] - other[None]).abs().amax(dim=2) <= tolerance
            found.append(near.any(dim=0).all() & near.any(dim=1).all())
        return torch.stack(found)


class Late(Method[LateSettings]):
    """A vector per frame and per word."""

    starts_as_identity = False
    pools_itself = True

    def setup(self) -> None:
        width = self.spec.embed_dim
        self.weight = nn.Parameter(torch.zeros(width)) if self.settings.weights == "learned" else None
        self.video_width, self.text_width = self.frames * width, self.words * width
        self.similarity = MaxSim(width, self.frames)

    def text_hooks(self) -> Hooks:
        return _EveryWord()

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        frames = F.normalize(features, dim=-1)
        missing = self.frames - frames.shape[1]
        frames = torch.where(mask.unsqueeze(-1), frames, frames[:, :1])
        return torch.cat([frames, frames[:, :1].expand(-1, missing, -1)], dim=1).flatten(1)

    def text_embedding(self, tokens: Tensor, hooks: Hooks) -> Tensor:
        features = self.backbone.text.every_token(tokens, hooks)
        used = self._words(tokens)[:, : features.shape[1]].unsqueeze(-1)
        logits = features.new_zeros(*features.shape[:2], 1)
        if self.weight is not None:
            logits = (features @ self.weight.to(features.dtype)).unsqueeze(-1)
        weights = logits.float().masked_fill(~used, -torch.inf).softmax(dim=1)
        words = torch.where(used, F.normalize(features, dim=-1) * weights, features.new_zeros(()))
        return F.pad(words, (0, 0, 0, self.words - words.shape[1])).flatten(1)

    def _words(self, tokens: Tensor) -> Tensor:
        """The columns that count as words: ``int64[B, L] -> bool[B, L]``."""
        tower, columns = self.backbone.text, torch.arange(tokens.shape[1], device=tokens.device)
        end = (tokens == self.backbone.tokenizer.eot_token_id).int().argmax(dim=1, keepdim=True)
        # Some towers read out another column than the end token's.
        return ((columns >= tower.prefix) & (columns <= end)) | (columns == tower.columns(tokens).unsqueeze(1))


class _EveryWord(Hooks):
    """Changes nothing, but needs every column of the text."""

    token_wise = True
    whole_last_layer = True
