"""A frozen ViT CLIP: open_clip's weights with this project's forward pass (:mod:`components.backbones.towers`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import open_clip
import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

from components.backbones.spec import BackboneSpec
from components.backbones.towers import TextTower, VisionTower
from components.backbones.weights import weights_sha256
from components.errors import BackboneError

_CACHED_TEXTS = 200_000


class Tokenizer(Protocol):
    """The part of open_clip's SimpleTokenizer that is used here."""

    sot_token_id: int
    eot_token_id: int
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """BPE pieces, without the start and the end token."""


class Backbone(nn.Module):
    """The two towers and the logit scale, all frozen.

    Attributes:
        spec: The identity that an adapter is bound to.
        vision: ``float[n, 3, S, S] -> float[n, E]``.
        text: ``int64[n, L] -> float[n, E]``.
        logit_scale: ``float[]``, the logarithm of the factor on the cosine.
        fixed: Names of parameters that no method trains (sine-cosine positions).

    Args:
        clip: open_clip's ``CLIP`` or ``CustomTextCLIP``. Its modules become part of the backbone.
        model: The name for the spec and for messages.
        tokenizer: The model's tokenizer.
        preprocess: open_clip's config of a pretrained tag. None uses CLIP's preprocessing.

    Raises:
        BackboneError: The towers are of an unsupported kind.
    """

    def __init__(self, clip: Any, model: str, tokenizer: Tokenizer, preprocess: dict[str, Any] | None = None) -> None:
        super().__init__()
        supported(clip, model)
        self.vision = VisionTower(clip.visual)
        self.text = TextTower(getattr(clip, "text", clip))
        self.logit_scale = nn.Parameter(clip.logit_scale.detach().float().reshape(()))
        self.float()
        self.fixed = frozenset(name for name, parameter in self.named_parameters() if not parameter.requires_grad)
        self.requires_grad_(False)
        self.eval()
        self.tokenizer = tokenizer
        self._pieces: dict[str, list[int]] = {}
        self.spec = describe(self, clip.visual, model, preprocess or {})
        mean, std = torch.tensor(self.spec.mean), torch.tensor(self.spec.std)
        self._factor: Tensor
        self._shift: Tensor
        self.register_buffer("_factor", (1 / (255 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer("_shift", (-mean / std).view(3, 1, 1), persistent=False)

    def tokenize(self, texts: Sequence[str], words: int) -> Tensor:
        """Start token, at most ``words - 2`` pieces, end token, zeros: ``int64[len(texts), words]``.

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
        rows = [[start, *self._encode(text)[: words - 2], end] for text in texts]
        return torch.tensor([row + [0] * (words - len(row)) for row in rows], dtype=torch.int64).view(-1, words)

    def _encode(self, text: str) -> list[int]:
        if text not in self._pieces:
            if len(self._pieces) >= _CACHED_TEXTS:
                self._pieces.clear()
            self._pieces[text] = self.tokenizer.encode(text)
        return self._pieces[text]

    def resize(self, frames: Tensor) -> Tensor:
        """Resizes the short side and crops the centre: ``uint8[n, 3, H, W] -> uint8[n, 3, S, S]``."""
        size = self.spec.image_size
        if frames.shape[-2:] == (size, size):
            return frames
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


def supported(clip: Any, model: str) -> None:
    """Checks that :mod:`components.backbones.towers` computes what these towers compute.

    Raises:
        BackboneError: It does not. The message names the difference.
    """
    visual, text = clip.visual, getattr(clip, "text", clip)
    if not isinstance(visual, VisionTransformer):
        raise unsupported(model, f"its vision tower is a {type(visual).__name__}")
    blocks = [*visual.transformer.resblocks, *getattr(getattr(text, "transformer", None), "resblocks", [None])]
    reasons = {
        "it pools patches by attention or averaging": visual.attn_pool is not None or visual.pool_type != "tok",
        "its input is not square": len(set(visual.image_size)) != 1 or len(set(visual.patch_size)) != 1,
        "its blocks are not CLIP's": not all(type(block) is ResidualAttentionBlock for block in blocks),
        "its text projection is not a matrix": not isinstance(getattr(text, "text_projection", None), nn.Parameter),
        "its text attention is not causal": getattr(text, "attn_mask", None) is None,
        "its text tower has a class token": getattr(text, "cls_emb", None) is not None,
        "its text is not read out at the largest id": getattr(text, "pool_type", None) not in ("argmax", None)
        or getattr(text, "text_pool_type", "argmax") != "argmax",
    }
    for reason, holds in reasons.items():
        if holds:
            raise unsupported(model, reason)


def describe(backbone: Backbone, visual: Any, model: str, preprocess: dict[str, Any]) -> BackboneSpec:
    """The spec of a backbone.

    Args:
        backbone: The backbone, with its weights.
        visual: open_clip's vision tower, for the sizes of image and patch.
        model: The name.
        preprocess: A pretrained tag's mean, std and interpolation. CLIP's values replace missing ones.
    """
    mean = preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = preprocess.get("std") or open_clip.OPENAI_DATASET_STD
    if preprocess.get("resize_mode", "shortest") != "shortest":
        raise unsupported(model, f"its resize mode is {preprocess['resize_mode']}")
    vision, text = backbone.vision, backbone.text
    first: tuple[Any, Any] = (vision.layers.blocks[0], text.layers.blocks[0])
    return BackboneSpec(
        model=model,
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        embed_dim=vision.proj.shape[1],
        vision_width=vision.class_embedding.shape[0],
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
        tokenizer_sha256=getattr(backbone.tokenizer, "sha256", None),
    )


def unsupported(model: str, reason: str) -> BackboneError:
    """The error of a model that is out of scope. ``reason`` names what its towers have."""
    return BackboneError(
        f"unsupported backbone: {reason}",
        where="backbone.model",
        found=model,
        expected="a CLIP with a ViT and a causal text transformer",
        cure="for example ViT-B-32, ViT-B-16 or ViT-L-14",
    )
