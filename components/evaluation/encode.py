"""Vectors of videos and texts under a method: once per video, once per text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from components import heartbeat
from components.backbones.host import upload
from components.errors import EvaluationError
from components.frames.reader import FrameReader
from components.frames.staging import Staging
from components.frames.store import FrameStore
from components.methods.base import Method
from components.methods.similarity import DOT, Similarity
from components.precision import Precision, autocast, check_precision, numerics
from components.processes import share_out
from components.video import Video

# A sum of the same frames in another order differs by rounding. Methods that see the order change far more than this.
ROUNDING = 1e-5


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
        similarity: how near a text is to a video. It decides the width of the vectors.
    """

    videos: tuple[Video, ...]
    present: Tensor
    video_vectors: Tensor
    texts: tuple[str, ...]
    owner: Tensor
    text_vectors: Tensor
    seconds: dict[str, float]
    similarity: Similarity = DOT

    def select(self, videos: Tensor, texts: Tensor) -> EncodedSplit:
        """Some of the videos and some of their texts.

        Args:
            videos: bool[N].
            texts: bool[Q]. Texts of videos that are not selected are left out in any case.
        """
        texts = texts & videos[self.owner]
        rows = torch.cumsum(videos, 0) - 1
        return EncodedSplit(
            tuple(video for video, kept in zip(self.videos, videos.tolist(), strict=True) if kept),
            self.present[videos],
            self.video_vectors[videos],
            tuple(text for text, kept in zip(self.texts, texts.tolist(), strict=True) if kept),
            rows[self.owner[texts]],
            self.text_vectors[texts],
            self.seconds,
            self.similarity,
        )


@torch.no_grad()
def encode_videos(
    method: Method,
    reader: FrameReader,
    ids: Sequence[str],
    batch_size: int,
    precision: Precision = "float32",
    embed: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Vectors of videos. A thread reads and copies the next batch while this one is encoded.

    Args:
        method: On the device that encodes.
        reader: Gives the frames.
        ids: At least one video.
        batch_size: Videos per forward pass.
        precision: What the towers compute in.
        embed: ``float[B, T, 3, S, S], bool[B, T] -> float[B, D]``, None for the method's vectors of videos.

    Returns:
        ``float32[N, D]`` on the CPU, in the order of ``ids``. The processes of a group divide the videos.

    Raises:
        ConfigError: The method's device does not compute in this precision.
    """
    device = device_of(method)
    check_precision(precision, device, "evaluation.precision")
    staging = Staging(3) if device.type == "cuda" else Staging()
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def fetch(rows: slice) -> tuple[Tensor, Tensor, torch.cuda.Event | None]:
        frames, mask = reader.batch(ids[rows], staging=staging)
        if stream is None:
            return frames, mask, None
        with torch.cuda.stream(stream):
            copies = staging.upload(frames, device), upload(mask, device)
            copied = torch.cuda.Event()
            copied.record(stream)
        return *copies, copied

    def encode(found: tuple[Tensor, Tensor, torch.cuda.Event | None]) -> Tensor:
        heartbeat.mark()
        frames, mask, copied = found
        if copied is not None:
            current = torch.cuda.current_stream(device)
            current.wait_event(copied)
            frames.record_stream(current)
            mask.record_stream(current)
        with numerics(precision), autocast(precision, device):
            return (embed or method.encode_video)(method.backbone.normalize(frames), mask)

    return share_out(len(ids), batch_size, encode, fetch)


def encode_both(
    method: Method, reader: FrameReader, ids: Sequence[str], batch_size: int, precision: Precision = "float32"
) -> tuple[Tensor, Tensor]:
    """What :func:`encode_videos` and :func:`encode_frames` give, with each frame read once, and encoded once if both
    need the same of it.
    """

    def embed(frames: Tensor, mask: Tensor) -> Tensor:
        if method.pools_itself:
            video, each = method.encode_video(frames, mask), _each_alone(method, frames, mask)
        else:
            features = method.frame_features(frames, mask)
            video, each = method.embedding(features, mask), _each(features, mask)
        return torch.cat([video, each.flatten(1)], dim=1)

    found = encode_videos(method, reader, ids, batch_size, precision, embed)
    videos, frames = found.tensor_split([method.video_width], dim=1)
    return videos.contiguous(), frames.unflatten(1, (reader.frames, -1))


def encode_frames(
    method: Method, reader: FrameReader, ids: Sequence[str], batch_size: int, precision: Precision = "float32"
) -> Tensor:
    """A vector for each frame of each video, in the space of the texts.

    These are the frame features that the method pools. A method with a pooling of its own pools each frame alone, and
    its tower also sees that frame alone: what it computes of a frame in its video may be of the whole video.

    The arguments and errors are those of :func:`encode_videos`.

    Returns:
        ``float32[N, T, D]`` on the CPU, L2-normalised, zero for padding frames.
    """

    def embed(frames: Tensor, mask: Tensor) -> Tensor:
        if method.pools_itself:
            return _each_alone(method, frames, mask).flatten(1)
        return _each(method.frame_features(frames, mask), mask).flatten(1)

    return encode_videos(method, reader, ids, batch_size, precision, embed).unflatten(1, (reader.frames, -1))


def _each(features: Tensor, mask: Tensor) -> Tensor:
    """The normalised features of frames, zero for padding: ``float[B, T, D], bool[B, T] -> float[B, T, D]``."""
    each = F.normalize(features, dim=-1)
    return torch.where(mask[..., None], each, each.new_zeros(()))


def _each_alone(method: Method, frames: Tensor, mask: Tensor) -> Tensor:
    """Each frame as a video of its own: ``float[B, T, 3, S, S], bool[B, T] -> float[B, T, D]``."""
    alone = method.encode_video(frames.flatten(0, 1)[:, None], mask.flatten()[:, None])
    # A method that keeps a vector per frame repeats the only one.
    return alone[:, : method.spec.embed_dim].reshape(*mask.shape, -1)


@torch.no_grad()
def encode_texts(method: Method, texts: Sequence[str], batch_size: int, precision: Precision = "float32") -> Tensor:
    """``float32[Q, D]`` on the CPU, in the order of ``texts`` (at least one); shared out over the process group."""
    device = device_of(method)

    def encode(tokens: Tensor) -> Tensor:
        heartbeat.mark()
        with numerics(precision), autocast(precision, device):
            return method.encode_text(upload(tokens, device))

    return share_out(len(texts), batch_size, encode, lambda rows: method.backbone.tokenize(texts[rows], method.words))


def encode_split(
    method: Method,
    store: FrameStore,
    reader: FrameReader,
    split: str,
    batch_size: int,
    precision: Precision = "float32",
) -> EncodedSplit:
    """Encodes each video and each caption of a split once.

    A video that shows another one backwards has exactly that one's vector if both differ by rounding alone.

    Raises:
        EvaluationError: no video of the split was decoded.
    """
    videos = tuple(store.manifest.split(split))
    decoded = store.ids(split)
    if not decoded:
        raise EvaluationError(
            "no decoded videos",
            where=f"split {split} of {store.uri}",
            expected="at least one",
            cure="replace its videos, or take them out of the collection, and run ingest again" if videos else None,
        )
    row_of = {video.video_id: row for row, video in enumerate(videos)}
    started = time.perf_counter()
    vectors = encode_videos(method, reader, decoded, batch_size, precision)
    rows = torch.tensor([row_of[name] for name in decoded])
    gallery = vectors.new_zeros(len(videos), vectors.shape[1]).index_copy_(0, rows, vectors)
    gallery = without_rounding(videos, gallery, method.similarity)
    present = torch.zeros(len(videos), dtype=torch.bool).index_fill_(0, rows, True)
    video_seconds = time.perf_counter() - started
    texts = tuple(caption for video in videos for caption in video.captions)
    owner = torch.tensor([row for row, video in enumerate(videos) for _ in video.captions])
    text_vectors = encode_texts(method, texts, batch_size, precision)
    seconds = {"videos": video_seconds, "texts": time.perf_counter() - started - video_seconds}
    return EncodedSplit(videos, present, gallery, texts, owner, text_vectors, seconds, method.similarity)


def without_rounding(videos: Sequence[Video], vectors: Tensor, similarity: Similarity = DOT) -> Tensor:
    """Gives a reversal the vector of its video where no coordinate differs by more than :data:`ROUNDING`.

    The scores of a method that does not see the order of frames are then exactly equal, so that they count as ties.

    Args:
        videos: N videos.
        vectors: ``float32[N, D]``.
        similarity: The method's similarity.

    Returns:
        ``float32[N, D]``.
    """
    if not (pairs := reversals(videos)):
        return vectors
    backwards, forwards = torch.tensor(pairs).T
    same = similarity.same(vectors[backwards], vectors[forwards], ROUNDING)
    return vectors.index_copy(0, backwards[same], vectors[forwards[same]])


def reversals(videos: Sequence[Video]) -> list[tuple[int, int]]:
    """The row of each video that runs backwards, with the row of the one that it shows."""
    row_of = {video.video_id: row for row, video in enumerate(videos)}
    return [(row, row_of[video.reverse_of]) for row, video in enumerate(videos) if video.reverse_of in row_of]


def device_of(method: Method) -> torch.device:
    """Where a method's towers are."""
    return next(method.backbone.parameters()).device
