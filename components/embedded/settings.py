"""The ``demo`` and ``pretrain`` blocks of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT, Count, Seconds, Share


@dataclass(frozen=True, config=STRICT)
class DemoTaskSettings:
    """The size of one embedded collection: groups of hard negatives and random videos per split."""

    seconds: Seconds
    train_random: Count
    train_groups: Count
    val_random: Count
    val_groups: Count
    test_random: Count
    test_groups: Count


@dataclass(frozen=True, config=STRICT)
class DemoSettings:
    """The embedded collections of moving shapes."""

    seed: int
    size: Annotated[int, Field(ge=64)]
    fps: Count
    clips: DemoTaskSettings
    stories: DemoTaskSettings


@dataclass(frozen=True, config=STRICT)
class PretrainSettings:
    """The training of the embedded mini CLIP on still pictures."""

    seed: int
    steps: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    motion_share: Share
