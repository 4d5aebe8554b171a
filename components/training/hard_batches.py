"""The videos of a split, the embeddings of their captions by the frozen text tower, and the captions that repeat."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from components.frames.store import FrameStore
from components.methods.base import Method
from components.methods.build import build
from components.processes import share_out
from components.training.batches import Repeated
from components.video import Video

logger = logging.getLogger(__name__)

# A video's embedding is the mean of this many captions. More would change little, and each costs a forward pass.
CAPTIONS = 4

# Videos per forward pass.
CHUNK = 64

# Texts that are tokenised at once.
TEXTS = 4096


def split_videos(store: FrameStore, split: str) -> list[Video]:
    """The decoded videos of a split, in manifest order."""
    decoded = set(store.ids(split))
    return [video for video in store.manifest.videos if video.video_id in decoded]


@torch.no_grad()
def caption_embeddings(method: Method, videos: list[Video]) -> NDArray[np.float32]:
    """The L2-normalised mean of each video's first captions, encoded by the backbone without the method.

    Returns:
        float32[N, D].
    """
    plain = build("zero_shot", {}, method.backbone, frames=method.frames, words=method.words)
    device = next(method.backbone.parameters()).device

    def encode(part: list[Video]) -> Tensor:
        texts = [caption for video in part for caption in video.captions[:CAPTIONS]]
        owner = [index for index, video in enumerate(part) for _ in video.captions[:CAPTIONS]]
        encoded = plain.encode_text(method.backbone.tokenize(texts, method.words).to(device)).float()
        sums = encoded.new_zeros(len(part), encoded.shape[1])
        return F.normalize(sums.index_add_(0, torch.tensor(owner, device=device), encoded), dim=1)

    vectors: NDArray[np.float32] = share_out(len(videos), CHUNK, encode, lambda rows: videos[rows]).numpy()
    return vectors


def repeated_captions(videos: Sequence[Video], tokenize: Callable[[Sequence[str]], Tensor]) -> Repeated | None:
    """The captions that several videos have, by their tokens.

    Args:
        videos: The videos, in the order of a plan's rows.
        tokenize: Maps texts to int64[c, L].

    Returns:
        None if no caption is repeated in another video.
    """
    texts = list(dict.fromkeys(caption for video in videos for caption in video.captions))
    parts = (tokenize(texts[start : start + TEXTS]).numpy() for start in range(0, len(texts), TEXTS))
    tokens = dict(zip(texts, (row.tobytes() for part in parts for row in part), strict=True))
    rows: dict[bytes, list[int]] = {}
    for row, video in enumerate(videos):
        for caption in {tokens[caption] for caption in video.captions}:
            rows.setdefault(caption, []).append(row)
    shared = [found for found in rows.values() if len(found) > 1]
    labels: list[list[int]] = [[] for _ in videos]
    for label, found in enumerate(shared):
        for row in found:
            labels[row].append(label)
    return Repeated(tuple(map(tuple, labels)), tuple(np.array(found) for found in shared)) if shared else None


def warn_of_repeats(videos: Sequence[Video]) -> None:
    """Warns if videos have captions of other videos, which the loss takes for wrong."""
    counts: dict[str, int] = {}
    for video in videos:
        for caption in set(video.captions):
            counts[caption] = counts.get(caption, 0) + 1
    repeated = sum(any(counts[caption] > 1 for caption in video.captions) for video in videos)
    if repeated:
        logger.warning(
            "%d of %d training videos have a caption that another video has too, and each is a negative of the other; "
            "set training.equal_captions: masked to leave such pairs out",
            repeated,
            len(videos),
        )
