"""What every method is: a module over a frozen backbone that knows its parameters and embeds videos and texts."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
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

# exp(logit_scale) is never above this, as in CLIP's own training.
MAX_SCALE = 100.0

# The largest float32 whose exponential, in float32, is not above it: a trained logarithm kept to this has a gradient.
MAX_LOG_SCALE = 4.6051697


@dataclass(frozen=True, config=config.STRICT)
class MethodSettings:
    """Settings of a method; each has its own subclass."""

    @classmethod
    def expand(cls, raw: dict[str, Any], where: str) -> dict[str, Any]:
        """``raw`` with what a named preset in it stands for; most methods have none.

        Raises:
            ConfigError: no such preset.
        """
        return raw


@dataclass(frozen=True, config=config.STRICT)
class TrainedSettings(MethodSettings):
    """What all methods that train have in common.

    Attributes:
        lr: peak learning rate.
        train_logit_scale: whether the factor on the cosine trains too; both papers leave it frozen.
        train_biases: whether CLIP's own biases train beside the method, as in MV-Adapter's released code and, by the
            printed shares, in every row of that paper's tables.
        bias_lr: their peak learning rate; None for ``lr`` (MV-Adapter's release: 1e-7).
    """

    lr: Annotated[float, Field(gt=0)]
    train_logit_scale: bool = False
    train_biases: bool = False
    bias_lr: Annotated[float, Field(gt=0)] | None = None


class Method(nn.Module):
    """A method on a backbone.

    The base class is CLIP itself with mean pooling; a method overrides the hooks of a tower, ``pool`` or both.

    Args:
        backbone: shared and left as it is; what trains of it is copied.
        settings: an instance of ``Settings``.
        frames: T, the most frames a video may have.
        words: L, the most tokens a text may have, start and end included.

    Raises:
        ConfigError: settings that do not fit the backbone, the frames or the words.

    Attributes:
        name: The name under which the method is registered. The registry sets it.
        Settings: The class of ``settings``.
        presets: Registered name to the settings that this name stands for. Settings that are given replace them.
        temporal: whether the order of the frames can change a video's embedding.
        starts_as_identity: whether the untrained method embeds exactly as CLIP does.
        pools_itself: whether frames become a video otherwise than by the mean of normalised features.
    """

    name: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    Settings: ClassVar[type[MethodSettings]]
    temporal: bool = False
    starts_as_identity: bool = True
    pools_itself: bool = False

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
        self.settings: Any = settings
        self.frames, self.words = frames, words
        tuned = self.tuned(backbone)
        self.backbone = trainable_copy(backbone, tuned) if tuned else backbone
        self.log_scale: nn.Parameter | None = None
        if getattr(settings, "train_logit_scale", False):
            self.log_scale = nn.Parameter(backbone.logit_scale.detach().clone())

    @property
    def spec(self) -> BackboneSpec:
        """The spec of the backbone as loaded, before any training."""
        return self.backbone.spec

    def tuned(self, backbone: Backbone) -> set[str]:
        """Names of the backbone's own parameters that train."""
        return biases(backbone) if getattr(self.settings, "train_biases", False) else set()

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name to parameter for all that trains, sorted: exactly what an adapter file holds."""
        return {name: p for name, p in sorted(self.named_parameters()) if p.requires_grad}

    def learning_rates(self) -> dict[str, float]:
        """Name to peak learning rate, with the names of :meth:`trainable`."""
        if not self.trainable():
            return {}
        lr, of_biases = self.settings.lr, self.settings.bias_lr or self.settings.lr
        bias = {f"backbone.{name}" for name in biases(self.backbone)}
        return {name: of_biases if name in bias else lr for name in self.trainable()}

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
            mask: ``bool[B, T]``, True for frames that are not padding; padding stands at the end.

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

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Brings a trained logit scale back to its limit. Behind it there is no gradient, and CLIP's own lies there."""
        if self.log_scale is not None:
            self.log_scale.clamp_(max=MAX_LOG_SCALE)


def mean_pool(features: Tensor, mask: Tensor, normalize: bool = True) -> Tensor:
    """Frames averaged over those that are not padding, L2-normalised.

    Args:
        features: ``float[B, T, E]``.
        mask: ``bool[B, T]``.
        normalize: whether frames are L2-normalised before the average too (CLIP4Clip, MV-Adapter's and VoP's releases).

    Returns:
        ``float[B, E]``.
    """
    frames = F.normalize(features, dim=-1) if normalize else features
    # A sum points where the mean does.
    return F.normalize(torch.where(mask.unsqueeze(-1), frames, frames.new_zeros(())).sum(dim=1), dim=-1)


def biases(backbone: Backbone) -> set[str]:
    """Names of all biases of a backbone, attention's ``in_proj_bias`` among them (171,008 scalars in ViT-B)."""
    return {name for name, _ in backbone.named_parameters() if name.endswith("bias")}


def trainable_copy(backbone: Backbone, names: Collection[str]) -> Backbone:
    """A backbone whose parameters ``names`` are copies that train; all others are shared with ``backbone``."""
    own = dict(backbone.named_parameters())
    shared = [*backbone.buffers(), *(own[name] for name in own.keys() - set(names)), backbone.tokenizer]
    copied = copy.deepcopy(backbone, {id(item): item for item in shared})
    for name, parameter in copied.named_parameters():
        if name in names:
            parameter.requires_grad_(True)
    return copied
