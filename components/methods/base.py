"""What every method is: a module over a frozen backbone that knows its parameters and embeds videos and texts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from components import config
from components.backbones.clip import Backbone
from components.backbones.spec import BackboneSpec
from components.backbones.towers import PLAIN, Flow, Hooks
from components.errors import ConfigError
from components.methods import METHODS

# exp(logit_scale) is never above this, as in CLIP's own training.
MAX_SCALE = 100.0


@dataclass(frozen=True, config=config.STRICT)
class MethodSettings:
    """Settings of a method; each has its own subclass."""


@dataclass(frozen=True, config=config.STRICT)
class TrainedSettings(MethodSettings):
    """What all methods that train have in common.

    Attributes:
        lr: peak learning rate.
        train_logit_scale: whether the factor on the cosine trains too; both papers leave it frozen.
    """

    lr: Annotated[float, Field(gt=0)]
    train_logit_scale: bool = False


class Method(nn.Module):
    """A method on a backbone.

    The base class is CLIP itself with mean pooling; a method overrides the hooks of a tower, ``pool`` or both.

    Args:
        backbone: shared and left as it is, unless :attr:`trains_backbone`, which works on a copy.
        settings: an instance of ``Settings``.
        frames: T, the most frames a video may have.
        words: L, the most tokens a text may have, start and end included.

    Raises:
        ConfigError: settings that do not fit the backbone, the frames or the words.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[MethodSettings]]
    # Whether the order of the frames can change a video's embedding.
    temporal: ClassVar[bool] = False
    # Whether the untrained method embeds exactly as CLIP does.
    starts_as_identity: ClassVar[bool] = True
    # Whether parameters of the backbone itself train.
    trains_backbone: ClassVar[bool] = False

    def __init__(self, backbone: Backbone, settings: Any, *, frames: int, words: int) -> None:
        super().__init__()
        if not isinstance(settings, self.Settings):
            raise ConfigError(
                "settings are another method's",
                where=self.name,
                found=type(settings).__name__,
                expected=self.Settings.__name__,
            )
        if words > backbone.spec.context_length:
            raise ConfigError(
                "more words than the text tower takes",
                where=f"{self.name} on {backbone.spec.model}",
                found=words,
                expected=f"words <= {backbone.spec.context_length}",
            )
        self.backbone = copy.deepcopy(backbone) if self.trains_backbone else backbone
        self.settings: Any = settings
        self.frames, self.words = frames, words
        self.log_scale: nn.Parameter | None = None
        if getattr(settings, "train_logit_scale", False):
            self.log_scale = nn.Parameter(backbone.logit_scale.detach().clone())

    @property
    def spec(self) -> BackboneSpec:
        """The spec of the backbone as loaded, before any training."""
        return self.backbone.spec

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name to parameter for all that trains, sorted: exactly what an adapter file holds."""
        return {name: p for name, p in sorted(self.named_parameters()) if p.requires_grad}

    def vision_hooks(self) -> Hooks:
        """Where the method acts in the vision tower."""
        return PLAIN

    def text_hooks(self) -> Hooks:
        """Where the method acts in the text tower."""
        return PLAIN

    def frame_features(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Features per frame, not normalised; those of padding frames mean nothing.

        Args:
            frames: ``float[B, T, 3, S, S]``, normalised pixels.
            mask: ``bool[B, T]``, True for frames that are not padding.

        Returns:
            ``float[B, T, E]``.

        Raises:
            ConfigError: more frames than the method was built for.
        """
        videos, length = mask.shape
        if length > self.frames:
            raise ConfigError(
                "videos have more frames than the method was built for",
                where=self.name,
                found=length,
                expected=f"frames <= {self.frames}",
            )
        flow = Flow(frames=length, mask=mask)
        return self.backbone.vision(frames.flatten(0, 1), self.vision_hooks(), flow).view(videos, length, -1)

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        """Frames to video: ``float[B, T, E], bool[B, T] -> float[B, E]``, L2-normalised."""
        return mean_pool(features, mask)

    def encode_video(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Video embeddings, L2-normalised: ``float[B, T, 3, S, S], bool[B, T] -> float[B, E]``."""
        return self.pool(self.frame_features(frames, mask), mask)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Text embeddings, L2-normalised: ``int64[B, L] -> float[B, E]``.

        Raises:
            ConfigError: more tokens than the method was built for.
        """
        if tokens.shape[1] > self.words:
            raise ConfigError(
                "texts have more tokens than the method was built for",
                where=self.name,
                found=tokens.shape[1],
                expected=f"words <= {self.words}",
            )
        return F.normalize(self.backbone.text(tokens, self.text_hooks()), dim=-1)

    def forward(self, frames: Tensor, mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Both embeddings in one call, ``(video[B, E], text[B', E])``: what distributed training wraps."""
        return self.encode_video(frames, mask), self.encode_text(tokens)

    @property
    def logit_scale(self) -> Tensor:
        """``float[]``, the factor on the cosine, at most 100."""
        log = self.backbone.logit_scale if self.log_scale is None else self.log_scale
        return log.exp().clamp(max=MAX_SCALE)


def mean_pool(features: Tensor, mask: Tensor) -> Tensor:
    """Frames L2-normalised, averaged over those that are not padding, normalised again (CLIP4Clip, MV-Adapter).

    Args:
        features: ``float[B, T, E]``.
        mask: ``bool[B, T]``.

    Returns:
        ``float[B, E]``.
    """
    unit = F.normalize(features, dim=-1)
    # A sum points where the mean does.
    return F.normalize(torch.where(mask.unsqueeze(-1), unit, unit.new_zeros(())).sum(dim=1), dim=-1)


def read_settings(name: str, raw: Mapping[str, Any], where: str = "") -> MethodSettings:
    """The settings of method ``name``, checked.

    Raises:
        ConfigError: an unknown method, or all faults of the settings at once.
    """
    where = where or f"methods.{name}"
    return config.check(METHODS.get(name, where).Settings, dict(raw), where)


def build(
    name: str, settings: MethodSettings | Mapping[str, Any], backbone: Backbone, *, frames: int, words: int
) -> Method:
    """Method ``name`` on ``backbone``.

    Raises:
        ConfigError: an unknown method, or settings that are wrong or do not fit the backbone, frames or words.
    """
    checked = read_settings(name, settings) if isinstance(settings, Mapping) else settings
    return METHODS.get(name)(backbone, checked, frames=frames, words=words)
