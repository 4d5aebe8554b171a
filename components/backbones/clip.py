"""The frozen backbone: open_clip's weights with this project's forward pass (:mod:`components.backbones.towers`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import open_clip
import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

from components.backbones.families import FAMILIES
from components.backbones.scope import unsupported
from components.backbones.spec import BackboneSpec
from components.backbones.texts import text_tower
from components.backbones.towers import TextTower, VisionTower
from components.backbones.weights import weights_sha256
from components.errors import BackboneError

_CACHED_TEXTS = 200_000


class Tokenizer(Protocol):
    """The part of open_clip's SimpleTokenizer that is used here. One without ``pad_token_id`` pads with 0."""

    @property
    def sot_token_id(self) -> int | None:
        """The start token; None if texts have none."""

    @property
    def eot_token_id(self) -> int:
        """The end token."""

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""

    def encode(self, text: str) -> list[int]:
        """The text's pieces, without the start and the end token."""


class Backbone(nn.Module):
    """The two towers and the logit scale, all frozen.

    Attributes:
        spec: The identity that an adapter is bound to.
        vision: ``float[n, 3, S, S] -> float[n, E]``.
        text: ``int64[n, L] -> float[n, E]``.
        logit_scale: ``float[]``, the logarithm of the factor on the cosine.
        logit_bias: ``float[]``, added to the scaled cosine by models that were trained with a sigmoid loss; else None.
        fixed: Names of parameters that no method trains (sine-cosine positions).

    Args:
        clip: open_clip's ``CLIP`` or ``CustomTextCLIP``. Its modules become part of the backbone.
        model: The name for the spec and for messages.
        tokenizer: The model's tokenizer.
        preprocess: open_clip's config of a pretrained tag. None uses CLIP's preprocessing.
        family: The family of its vision tower (:data:`components.backbones.families.FAMILIES`).

    Raises:
        BackboneError: The towers are of an unsupported kind.
    """

    def __init__(
        self,
        clip: Any,
        model: str,
        tokenizer: Tokenizer,
        preprocess: dict[str, Any] | None = None,
        family: str = "clip",
    ) -> None:
        super().__init__()
        self.vision: VisionTower = FAMILIES.get(family)(clip.visual, model)
        self.text: TextTower = text_tower(clip, model, starts=tokenizer.sot_token_id is not None)
        self.logit_scale = nn.Parameter(clip.logit_scale.detach().float().reshape(()))
        bias = getattr(clip, "logit_bias", None)
        self.logit_bias = None if bias is None else nn.Parameter(bias.detach().float().reshape(()))
        self.float()
        self.fixed = frozenset(name for name, parameter in self.named_parameters() if not parameter.requires_grad)
        self.requires_grad_(False)
        super().train(False)
        self.tokenizer = tokenizer
        self._pieces: dict[str, list[int]] = {}
        self.spec = describe(self, model, preprocess or {}, family)
        mean, std = torch.tensor(self.spec.mean), torch.tensor(self.spec.std)
        self._factor: Tensor
        self._shift: Tensor
        self.register_buffer("_factor", (1 / (255 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer("_shift", (-mean / std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Backbone:
        """Keeps the towers in evaluation mode, so that batch norms of a patch embedding keep their statistics."""
        return self

    def tokenize(self, texts: Sequence[str], words: int) -> Tensor:
        """Start token (if the model has one), pieces, end token, padding: ``int64[len(texts), text_length(words)]``.

        Args:
            texts: The texts.
            words: The most tokens of a text that are kept, with the start and the end token.

        Raises:
            BackboneError: ``words`` is below 3 or above the context length.
        """
        if not 3 <= words <= self.spec.context_length:
            raise BackboneError(
                "words do not fit the text tower",
                where=self.spec.model,
                found=words,
                expected=f"3 to {self.spec.context_length}",
                cure="change `words` of the task",
            )
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        first = [] if start is None else [start]
        rows = [[*first, *self._encode(text)[: words - 1 - len(first)], end] for text in texts]
        length, pad = self.text_length(words), getattr(self.tokenizer, "pad_token_id", 0)
        return torch.tensor([row + [pad] * (length - len(row)) for row in rows], dtype=torch.int64).view(-1, length)

    def text_length(self, words: int) -> int:
        """The columns of a text of ``words`` tokens: the whole context where the text tower attends to padding."""
        return words if self.text.layers.causal else self.spec.context_length

    def _encode(self, text: str) -> list[int]:
        if text not in self._pieces:
            if len(self._pieces) >= _CACHED_TEXTS:
                self._pieces.clear()
            self._pieces[text] = self.tokenizer.encode(text)
        return self._pieces[text]

    def resize(self, frames: Tensor) -> Tensor:
        """Brings frames to the input size: ``uint8[n, 3, H, W] -> uint8[n, 3, S, S]``.

        The short side is resized and the centre cropped. A model of ``resize: squash`` was trained on pictures that
        were resized without regard to their sides' ratio.
        """
        size = self.spec.image_size
        if frames.shape[-2:] == (size, size):
            return frames
        if self.spec.resize == "squash":
            return V.resize(frames, [size, size], InterpolationMode(self.spec.interpolation), antialias=True)
        if min(frames.shape[-2:]) != size:
            frames = V.resize(frames, [size], InterpolationMode(self.spec.interpolation), antialias=True)
        return V.center_crop(frames, [size, size])

    def normalize(self, frames: Tensor) -> Tensor:
        """``(pixel / 255 - mean) / std``: ``uint8[..., 3, S, S] -> float[..., 3, S, S]``."""
        # Frames from a reader have interleaved colours. Other strides would let convolutions round differently.
        pixels = frames.to(torch.float32, memory_format=torch.contiguous_format)
        return torch.addcmul(self._shift, pixels, self._factor)

    def preprocess(self, frames: Tensor) -> Tensor:
        """:meth:`resize`, then :meth:`normalize`: ``uint8[n, 3, H, W] -> float[n, 3, S, S]``."""
        return self.normalize(self.resize(frames))


def parameter_total(backbone: nn.Module) -> int:
    """The number of scalars in all parameters, frozen or not."""
    return sum(parameter.numel() for parameter in backbone.parameters())


def describe(backbone: Backbone, model: str, preprocess: dict[str, Any], family: str) -> BackboneSpec:
    """The spec of a backbone.

    Args:
        backbone: The backbone, with its weights.
        model: The name.
        preprocess: A pretrained tag's mean, std, interpolation and resize mode. CLIP's values replace missing ones.
        family: The family of the vision tower.

    Raises:
        BackboneError: The resize mode is not supported.
    """
    mean = preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = preprocess.get("std") or open_clip.OPENAI_DATASET_STD
    resize = preprocess.get("resize_mode", "shortest")
    if resize not in ("shortest", "squash"):
        raise unsupported(model, f"its resize mode is {resize}")
    vision, text = backbone.vision, backbone.text
    first: tuple[Any, Any] = (vision.layers.blocks[0], text.layers.blocks[0])
    return BackboneSpec(
        model=model,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        embed_dim=vision.embed_dim,
        vision_width=vision.positional_embedding.shape[1],
        vision_layers=len(vision.layers.blocks),
        vision_heads=first[0].attn.num_heads,
        text_width=text.token_embedding.embedding_dim,
        text_layers=len(text.layers.blocks),
        text_heads=first[1].attn.num_heads,
        context_length=text.positional_embedding.shape[0],
        vocab_size=text.token_embedding.num_embeddings,
        quick_gelu=isinstance(first[0].mlp.gelu, QuickGELU),
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        interpolation=preprocess.get("interpolation") or "bicubic",
        weights_sha256=weights_sha256(backbone),
        family=family,
        class_token=vision.prefix == 1,
        resize=resize,
        text_readout=text.readout,
        causal_text=text.layers.causal,
        tokenizer_sha256=getattr(backbone.tokenizer, "sha256", None),
    )
