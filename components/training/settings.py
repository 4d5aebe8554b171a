"""The ``training`` and ``execution`` blocks of params.yaml: what decides an adapter, and what does not."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT, Count, Seconds, Share

# What weight decay applies to (components/training/optimiser.py).
Decay = Literal["matrices", "all_but_biases", "all"]
# What a video is to a caption that equals one of its captions in the batch (components/training/loss.py).
EqualCaptions = Literal["negatives", "masked", "positives"]
# Softmax over the batch, or a yes-or-no question per pair. ``auto`` takes what the backbone was trained with.
Loss = Literal["auto", "softmax", "sigmoid"]


@dataclass(frozen=True, config=STRICT)
class TrainingSettings:
    """What decides the result of a training. The learning rate is one of the method's settings."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    batching: Literal["random", "hard"]
    hard_group: Annotated[int, Field(ge=2)]
    last_batch: Literal["drop", "keep"]
    captions_per_video: Count
    augmentation: Literal["none", "crop_flip"]
    warmup_share: Share
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    validation_every: Count
    select_on: Literal["last", "val", "test"]
    threads: Count
    micro_batches: Count | Literal["auto"]
    grad_cache: bool
    checkpoint_activations: bool
    cache_frozen: bool
    precision: Literal["float32", "tf32", "bfloat16"]
    # New since 0.1. Files without them keep their results.
    decay: Decay = "matrices"
    equal_captions: EqualCaptions = "negatives"
    loss: Loss = "auto"


@dataclass(frozen=True, config=STRICT)
class ExecutionSettings:
    """How a training is carried out. No setting here changes its result, so none makes an adapter out of date."""

    checkpoint_steps: Count
    keep_checkpoints: Count
    storage: str
    workers: Count
    cache_mib: Annotated[int, Field(ge=0)]
    timeout_seconds: Seconds
    max_failures: Annotated[int, Field(ge=0)]
    # New since 0.1, so files without it are right too.
    decode_threads: Annotated[int, Field(ge=0)] = 0
    index_workers: Annotated[int, Field(ge=0)] = 0
