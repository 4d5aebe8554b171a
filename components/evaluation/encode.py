"""Vectors of videos and texts under a method: once per video, once per text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from components import heartbeat
from components.errors import EvaluationError
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.manifest import Video
from components.methods.base import Method
from components.processes import share_out


@dataclass(frozen=True)
class EncodedSplit:
    """A split as vectors.

    Attributes:
        videos: the gallery in manifest order, videos that failed to decode included.
        present: bool[N], false for those that failed; their vectors are zero.
        video_vectors: float32[N, D], L2-normalised.
        texts: every caption of every video.
        owner: int64[Q], the row of each text's video.
        text_vectors: float32[Q, D], L2-normalised.
        seconds: wall time of the two encodings.
    """

    videos: tuple[Video, ...]
    present: Tensor
    video_vectors: Tensor
    texts: tuple[str, ...]
    owner: Tensor
    text_vectors: Tensor
    seconds: dict[str, float]


@torch.no_grad()
def encode_videos(method: Method, reader: FrameReader, ids: Sequence[str], batch_size: int) -> Tensor:
    """float32[N, D] on the CPU, in the order of ``ids`` (at least one); shared out over the process group."""
    device = _device(method)

    def encode(rows: slice) -> Tensor:
        heartbeat.mark()
        frames, mask = reader.batch(ids[rows])
        return method.encode_video(method.backbone.normalize(frames.to(device)), mask.to(device))

    return share_out(len(ids), batch_size, encode)


@torch.no_grad()
def encode_texts(method: Method, texts: Sequence[str], batch_size: int) -> Tensor:
    """float32[Q, D] on the CPU, in the order of ``texts`` (at least one); shared out over the process group."""
    device = _device(method)

    def encode(rows: slice) -> Tensor:
        heartbeat.mark()
        return method.encode_text(method.backbone.tokenize(texts[rows], method.words).to(device))

    return share_out(len(texts), batch_size, encode)


def encode_split(method: Method, store: FrameStore, reader: FrameReader, split: str, batch_size: int) -> EncodedSplit:
    """Encodes each video and each caption of a split once.

    Raises:
        EvaluationError: no video of the split was decoded.
    """
    videos = tuple(store.manifest.split(split))
    decoded = store.ids(split)
    if not decoded:
        raise EvaluationError("no decoded videos", where=f"split {split} of {store.uri}", expected="at least one")
    row_of = {video.video_id: row for row, video in enumerate(videos)}
    started = time.perf_counter()
    vectors = encode_videos(method, reader, decoded, batch_size)
    rows = torch.tensor([row_of[name] for name in decoded])
    gallery = vectors.new_zeros(len(videos), vectors.shape[1]).index_copy_(0, rows, vectors)
    present = torch.zeros(len(videos), dtype=torch.bool).index_fill_(0, rows, True)
    video_seconds = time.perf_counter() - started
    texts = tuple(caption for video in videos for caption in video.captions)
    owner = torch.tensor([row for row, video in enumerate(videos) for _ in video.captions])
    text_vectors = encode_texts(method, texts, batch_size)
    seconds = {"videos": video_seconds, "texts": time.perf_counter() - started - video_seconds}
    return EncodedSplit(videos, present, gallery, texts, owner, text_vectors, seconds)


def _device(method: Method) -> torch.device:
    return next(method.backbone.parameters()).device
