"""A batch of tensors, and its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from components.backbones.host import split, upload
from components.frames.staging import Staging


@dataclass(frozen=True)
class MicroBatch:
    """Pairs that are encoded in one pass.

    Attributes:
        number: The index of the micro-batch in the global batch.
        ids: The video ids.
        frames: uint8[b, T, 3, S, S].
        mask: bool[b, T], true where a frame is real.
        tokens: int64[c, L], the videos' captions; c is at least b.
        frame_captions: int64[b, T, L], a caption of each frame, the empty one for padding. None without such captions.
    """

    number: int
    ids: tuple[str, ...]
    frames: Tensor
    mask: Tensor
    tokens: Tensor
    frame_captions: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """A global batch of B videos and C captions, and one process's part of its tensors.

    The batch is split into V micro-batches. Micro-batch v holds the videos ``v::V``. Each of W processes encodes
    ``V / W`` consecutive micro-batches. In a short batch some micro-batches are empty.

    Attributes:
        ids: The video ids of the whole global batch.
        owner: int64[C], each caption's row among the videos, both in the order of the micro-batches.
        videos: V numbers, the videos of each micro-batch.
        captions: V numbers, the captions of each micro-batch.
        local: The indices of this process's micro-batches.
        frames: uint8[b, T, 3, S, S], this process's micro-batches one after the other.
        mask: bool[b, T], true where a frame is real.
        tokens: int64[c, L].
        real_frames: frames of this process that are not padding.
        same_text: int64[C], the same number for captions with the same text, from
            :func:`components.training.loss.shared_texts`. None if no two videos have the same text, or if such videos
            are negatives.
        frame_captions: int64[b, T, L], a caption of each of this process's frames. None without such captions.
    """

    ids: tuple[str, ...]
    owner: Tensor
    videos: tuple[int, ...]
    captions: tuple[int, ...]
    local: range
    frames: Tensor
    mask: Tensor
    tokens: Tensor
    real_frames: int = 0
    same_text: Tensor | None = None
    frame_captions: Tensor | None = None

    def to(self, device: torch.device, staging: Staging | None = None) -> Batch:
        """The same batch on ``device``, copied on the current stream.

        Args:
            device: Where the towers run.
            staging: Where ``frames`` was taken from, if it was.
        """
        return replace(
            self,
            owner=upload(self.owner, device),
            frames=staging.upload(self.frames, device) if staging else self.frames.to(device, non_blocking=True),
            mask=upload(self.mask, device),
            tokens=upload(self.tokens, device),
            same_text=None if self.same_text is None else upload(self.same_text, device),
            frame_captions=None if self.frame_captions is None else upload(self.frame_captions, device),
        )

    def used_by(self, stream: torch.cuda.Stream) -> None:
        """Keeps the memory of the tensors until ``stream`` has read them, where another stream copied them."""
        for tensor in (self.owner, self.frames, self.mask, self.tokens, self.same_text, self.frame_captions):
            if tensor is not None:
                tensor.record_stream(stream)

    def micro_batches(self) -> list[MicroBatch]:
        """This process's micro-batches, without empty ones."""
        videos = [self.videos[index] for index in self.local]
        texts = split(self.tokens, [self.captions[index] for index in self.local])
        ids = [self.ids[index :: len(self.videos)] for index in self.local]
        of_frames = [None] * len(videos) if self.frame_captions is None else split(self.frame_captions, videos)
        parts = zip(self.local, ids, self.frames.split(videos), split(self.mask, videos), texts, of_frames, strict=True)
        return [MicroBatch(*part) for part in parts if part[1]]

    def sizes_by_process(self, sizes: tuple[int, ...]) -> list[int]:
        """The sum of ``sizes``, one per micro-batch, for each process."""
        count = len(self.local)
        return [sum(sizes[start : start + count]) for start in range(0, len(sizes), count)]
