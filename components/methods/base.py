"""What every method is: a module over a frozen backbone. It knows its parameters and embeds videos and texts."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_args, get_origin

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.clip import Backbone
from components.backbones.hooks import PLAIN, Flow, Hooks, all_valid
from components.backbones.host import on_host, upload
from components.backbones.spec import BackboneSpec
from components.config import STRICT
from components.errors import ConfigError
from components.methods.frame_captions import CaptionLoss
from components.methods.similarity import DOT, Similarity

# The upper limit of exp(logit_scale), as in CLIP's training.
MAX_SCALE = 100.0

# The largest float32 with an exponential (in float32) of at most MAX_SCALE. At this limit the gradient is not zero.
MAX_LOG_SCALE = 4.6051697


@dataclass(frozen=True, config=STRICT)
class MethodSettings:
    """Settings of a method. Each method has its subclass."""

    @classmethod
    def expand(cls, name: str, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
        """``raw`` with the values of presets filled in. Most methods have no presets.

        Args:
            name: The name of the method. It can name a preset.
            raw: The settings as in params.yaml.
            where: Their place, for messages.

        Raises:
            ConfigError: The preset does not exist.
        """
        return dict(raw)


@dataclass(frozen=True, config=STRICT)
class TrainedSettings(MethodSettings):
    """Settings of all methods that train.

    Attributes:
        lr: Peak learning rate.
        train_logit_scale: Whether the logit scale trains too, and SigLIP's logit bias. Both papers freeze it.
        train_biases: Whether CLIP's biases train too. They do in MV-Adapter's released code and, judging by the printed
            parameter ratios, in every row of that paper's tables.
        bias_lr: Peak learning rate of these biases. None means ``lr`` (MV-Adapter's release: 1e-7).
    """

    lr: Annotated[float, Field(gt=0)]
    train_logit_scale: bool = False
    train_biases: bool = False
    bias_lr: Annotated[float, Field(gt=0)] | None = None


S = TypeVar("S", bound=MethodSettings)


class Method(nn.Module, Generic[S]):
    """A method on a backbone, with settings of the class S.

    The base class is CLIP with mean pooling. A method makes its parameters in :meth:`setup` and overrides the hooks of
    a tower, :meth:`pool`, or both::

        class Gain(Method[GainSettings]):
            def setup(self) -> None:
                self.gain = nn.Parameter(torch.ones(self.spec.embed_dim))

    Args:
        backbone: The frozen CLIP. It is shared and does not change: parameters of it that train are copied.
        settings: An instance of ``Settings``.
        frames: T, the most frames per video.
        words: The most tokens per text, start and end tokens included. ``self.words`` is L, the columns of a text.
        name: The name that the method was asked for under. An adapter's card holds it.

    Raises:
        ConfigError: The settings do not fit the backbone, ``frames`` or ``words``.

    Attributes:
        Settings: S. Subclassing ``Method[S]`` sets it.
        temporal: Whether the order of the frames can change a video's embedding.
        starts_as_identity: Whether the untrained method embeds exactly as CLIP does.
        pools_itself: Whether frames are pooled in another way than by the mean of their normalised features.
        needs_class_token: Whether the method acts on the class token that is read out. A tower that pools all tokens is
            then refused.
        video_width, text_width: The numbers of a video's and a text's embedding: E, or more if a method keeps a vector
            per frame and per word.
        similarity: How near an embedded text is to an embedded video.
        caption_loss: What a training with a caption of every frame adds to its loss. None for most methods, which
            need no such captions.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    temporal: bool = False
    starts_as_identity: bool = True
    pools_itself: bool = False
    needs_class_token: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in cls.__dict__.get("__orig_bases__", ()):
            origin, arguments = get_origin(base), get_args(base)
            if isinstance(origin, type) and issubclass(origin, Method) and isinstance(arguments[0], type):
                cls.Settings = arguments[0]

    def __init__(self, backbone: Backbone, settings: S, *, frames: int, words: int, name: str) -> None:
        super().__init__()
        if not isinstance(settings, self.Settings):
            raise ConfigError(
                "settings belong to another method",
                where=name,
                found=type(settings).__name__,
                expected=self.Settings.__name__,
            )
        if words > backbone.spec.context_length:
            raise ConfigError(
                "more words than the text tower takes",
                where=f"{name} on {backbone.spec.model}",
                found=words,
                expected=f"words <= {backbone.spec.context_length}",
            )
        if self.needs_class_token and backbone.vision.pool is not None:
            raise ConfigError(
                "the method acts on the class token that is read out, and the vision tower pools all tokens",
                where=f"{name} on {backbone.spec.model}",
                expected="a backbone that reads its class token, such as ViT-B-32 or MobileCLIP2-B",
            )
        self.name = name
        self.settings: S = settings
        # A text that fills the context has more columns than words.
        self.frames, self.words = frames, backbone.text_length(words)
        self.video_width = self.text_width = backbone.spec.embed_dim
        self.similarity: Similarity = DOT
        self.caption_loss: CaptionLoss | None = None
        tuned = self.tuned(backbone)
        self.backbone = trainable_copy(backbone, tuned) if tuned else backbone
        self.log_scale: nn.Parameter | None = None
        self.trained_bias: nn.Parameter | None = None
        if isinstance(settings, TrainedSettings) and settings.train_logit_scale:
            self.train_logit_scale()
        self.setup()

    def setup(self) -> None:
        """Makes the method's parameters. ``spec``, ``settings``, ``frames``, ``words`` and ``backbone`` are set."""

    @property
    def spec(self) -> BackboneSpec:
        """The spec of the backbone as loaded, before any training."""
        return self.backbone.spec

    def tuned(self, backbone: Backbone) -> set[str]:
        """Names of the backbone's parameters that train."""
        settings = self.settings
        return biases(backbone) if isinstance(settings, TrainedSettings) and settings.train_biases else set()

    def train_logit_scale(self) -> None:
        """Gives the method a trainable logit scale, and bias if there is one, that start at the backbone's."""
        self.log_scale = nn.Parameter(self.backbone.logit_scale.detach().clone())
        if self.backbone.logit_bias is not None:
            self.trained_bias = nn.Parameter(self.backbone.logit_bias.detach().clone())

    def trainable(self) -> dict[str, nn.Parameter]:
        """Everything that trains, by name and sorted. An adapter file holds exactly these parameters."""
        return {name: p for name, p in sorted(self.named_parameters()) if p.requires_grad}

    def learning_rates(self) -> dict[str, float]:
        """Peak learning rates, with the names of :meth:`trainable`.

        Raises:
            ConfigError: Parameters train, but the settings have no learning rate.
        """
        names, settings = list(self.trainable()), self.settings
        if not names:
            return {}
        if not isinstance(settings, TrainedSettings):
            raise ConfigError(
                "a method that trains has no learning rate",
                where=self.name,
                found=type(settings).__name__,
                expected="a subclass of TrainedSettings",
            )
        bias_names = {f"backbone.{name}" for name in biases(self.backbone)}
        bias_lr = settings.bias_lr or settings.lr
        return {name: bias_lr if name in bias_names else settings.lr for name in names}

    def vision_hooks(self) -> Hooks:
        """Where the method acts in the vision tower."""
        return PLAIN

    def text_hooks(self) -> Hooks:
        """Where the method acts in the text tower."""
        return PLAIN

    def frame_features(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Features per frame, not normalised. The features of padding frames have no meaning.

        Args:
            frames: ``float[B, T, 3, S, S]``, normalised pixels.
            mask: ``bool[B, T]``, False for padding frames, which come last.

        Returns:
            ``float[B, T, E]``.

        Raises:
            ConfigError: The videos have more frames than the method was built for, or padding before a valid frame.
        """
        videos, length = mask.shape
        if length > self.frames:
            raise ConfigError(
                "videos have more frames than the method was built for",
                where=self.name,
                found=length,
                expected=f"frames <= {self.frames}",
            )
        flow = Flow(frames=length, mask=self.shown(mask))
        return self.backbone.vision(frames.flatten(0, 1), self.vision_hooks(), flow).view(videos, length, -1)

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        """Pools frames into a video: ``float[B, T, E], bool[B, T] -> float[B, E]``, L2-normalised."""
        return mean_pool(features, mask)

    def encode_video(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Video embeddings, L2-normalised: ``float[B, T, 3, S, S], bool[B, T] -> float[B, video_width]``.

        A video without a valid frame gives zeros, so it is as near to every text, and moves no parameter.
        """
        return self.embedding(self.frame_features(frames, mask), mask)

    def embedding(self, features: Tensor, mask: Tensor) -> Tensor:
        """:meth:`pool`, and zeros for videos without a valid frame: ``float[B, T, E], bool[B, T] -> float[B, E]``."""
        shown = self.shown(mask)
        video = self.pool(features, shown)
        return video if shown is mask else torch.where(mask.any(dim=1, keepdim=True), video, video.new_zeros(()))

    def shown(self, mask: Tensor) -> Tensor:
        """The frames that the towers and the pooling see: ``bool[B, T] -> bool[B, T]``.

        These are the valid ones. A video without any shows its first, since attention over nothing has no value.

        Raises:
            ConfigError: A padding frame comes before a valid one.
        """
        if all_valid(mask):
            return mask
        host = on_host(mask)
        between = (host[:, 1:] & ~host[:, :-1]).any(dim=1)
        if between.any():
            video = int(between.nonzero()[0])
            raise ConfigError(
                "a padding frame comes before a valid one",
                where=f"{self.name}: video {video} of the batch",
                found=host[video].int().tolist(),
                expected="valid frames (1) first, then padding (0)",
                cure="put the padding at the end",
            )
        empty = ~host.any(dim=1)
        if not empty.any():
            return mask
        host = host.clone()
        host[empty, 0] = True
        return upload(host, mask.device)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Text embeddings, L2-normalised: ``int64[B, L] -> float[B, text_width]``.

        Raises:
            ConfigError: The texts have more tokens than the method was built for.
        """
        if tokens.shape[1] > self.words:
            raise ConfigError(
                "texts have more tokens than the method was built for",
                where=self.name,
                found=tokens.shape[1],
                expected=f"words <= {self.words}",
            )
        return self.text_embedding(tokens, self.text_hooks())

    def text_embedding(self, tokens: Tensor, hooks: Hooks) -> Tensor:
        """The embedding of texts that pass the text tower with ``hooks``, those of other parts among them."""
        return F.normalize(self.backbone.text(tokens, hooks), dim=-1)

    def forward(self, frames: Tensor, mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Both embeddings, ``(video[B, E], text[B', E])``, in one call that distributed training can wrap."""
        return self.encode_video(frames, mask), self.encode_text(tokens)

    @property
    def logit_scale(self) -> Tensor:
        """``float[]``, the factor on the cosine, at most 100. SigLIP comes with larger ones and keeps them."""
        log = self.backbone.logit_scale if self.log_scale is None else self.log_scale
        return log.exp() if self.backbone.logit_bias is not None else log.exp().clamp(max=MAX_SCALE)

    @property
    def logit_bias(self) -> Tensor | None:
        """``float[]``, added to the scaled cosine in a sigmoid loss; None on a backbone without one."""
        return self.backbone.logit_bias if self.trained_bias is None else self.trained_bias

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Clamps a trained logit scale to its limit. Above the limit the gradient is zero, and CLIP starts there."""
        if self.log_scale is not None and self.backbone.logit_bias is None:
            self.log_scale.clamp_(max=MAX_LOG_SCALE)


def mean_pool(features: Tensor, mask: Tensor, normalize: bool = True) -> Tensor:
    """The L2-normalised mean of the frames that are not padding.

    Args:
        features: ``float[B, T, E]``.
        mask: ``bool[B, T]``.
        normalize: Whether frames are L2-normalised before the mean too (CLIP4Clip, MV-Adapter's and VoP's releases).

    Returns:
        ``float[B, E]``.
    """
    frames = F.normalize(features, dim=-1) if normalize else features
    # The sum has the direction of the mean.
    return F.normalize(torch.where(mask.unsqueeze(-1), frames, frames.new_zeros(())).sum(dim=1), dim=-1)


def biases(backbone: Backbone) -> set[str]:
    """Names of all biases of the towers, including attention's ``in_proj_bias`` (171,008 scalars in CLIP's ViT-B)."""
    return {name for name, _ in backbone.named_parameters() if name.endswith("bias") and name != "logit_bias"}


def trainable_copy(backbone: Backbone, names: Collection[str]) -> Backbone:
    """A backbone in which the parameters ``names`` are trainable copies. It shares all others with ``backbone``."""
    parameters = dict(backbone.named_parameters())
    frozen = [parameters[name] for name in parameters.keys() - set(names)]
    shared = [*backbone.buffers(), *frozen, backbone.tokenizer]
    copied = copy.deepcopy(backbone, {id(item): item for item in shared})
    for name, parameter in copied.named_parameters():
        if name in names:
            parameter.requires_grad_(True)
    return copied
