"""Vectors of videos and texts under a method. Each video and each text is encoded once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from components import heartbeat
from components.errors import ConfigError, EvaluationError
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.manifest import Video
from components.methods.base import Method
from components.processes import share_out


@dataclass(frozen=True)
class EncodedSplit:
    """A split as vectors.

    Attributes:
        videos: The gallery in manifest order, with the videos that failed to decode.
        present: bool[N], false for videos that failed. Their vectors are zero.
        video_vectors: float32[N, D], L2-normalised.
        texts: Every caption of every video.
        owner: int64[Q], the row of each text's video.
        text_vectors: float32[Q, D], L2-normalised.
        seconds: Wall time of the two encodings.
    """

    videos: tuple[Video, ...]
    present: Tensor
    video_vectors: Tensor
    texts: tuple[str, ...]
    owner: Tensor
    text_vectors: Tensor
    seconds: dict[str, float]


def pick_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that ``evaluation.device`` names.

    Raises:
        ConfigError: The name is ``cuda`` and there is no GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no GPU", where="params.yaml evaluation.device", found=name, expected="auto or cpu")
    return torch.device(name)


@torch.no_grad()
def encode_videos(method: Method, reader: FrameReader, ids: Sequence[str], batch_size: int) -> Tensor:
    """Encodes videos. The processes of the group share the work.

    Args:
        method: The method, on the device to use.
        reader: Reads the frames.
        ids: At least one video.
        batch_size: Videos per forward pass.

    Returns:
        float32[N, D] on the CPU, in the order of ``ids``.
    """
    device = _device(method)

    def encode(rows: slice) -> Tensor:
        heartbeat.mark()
        frames, mask = reader.batch(ids[rows])
        return method.encode_video(method.backbone.normalize(frames.to(device)), mask.to(device))

    return share_out(len(ids), batch_size, encode)


@torch.no_grad()
def encode_texts(method: Method, texts: Sequence[str], batch_size: int) -> Tensor:
    """Encodes texts. The processes of the group share the work.

    Args:
        method: The method, on the device to use.
        texts: At least one text.
        batch_size: Texts per forward pass.

    Returns:
        float32[Q, D] on the CPU, in the order of ``texts``.
    """
    device = _device(method)

    def encode(rows: slice) -> Tensor:
        heartbeat.mark()
        return method.encode_text(method.backbone.tokenize(texts[rows], method.words).to(device))

    return share_out(len(texts), batch_size, encode)


def encode_split(method: Method, store: FrameStore, reader: FrameReader, split: str, batch_size: int) -> EncodedSplit:
    """Encodes each video and each caption of a split once.

    Raises:
        EvaluationError: No video of the split was decoded.
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
