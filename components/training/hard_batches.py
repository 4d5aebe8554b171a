"""The videos of a split, and the embeddings of their captions by the frozen text tower."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from components.frames.store import FrameStore
from components.manifest import Video
from components.methods.base import Method
from components.methods.build import build
from components.processes import share_out

# A video's embedding is the mean of this many captions. More would change little, and each costs a forward pass.
CAPTIONS = 4

# Videos per forward pass.
CHUNK = 64


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
