"""What a backbone is, in numbers: the identity that an adapter is bound to. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from pydantic.dataclasses import dataclass

from components.config import STRICT


@dataclass(frozen=True, config=STRICT)
class BackboneSpec:
    """Shapes, activation, preprocessing and weights of a backbone.

    Attributes:
        model: open_clip's model name, ``mini``, or the file name of a model config.
        image_size: Side of the square input in pixels.
        patch_size: Side of a square patch in pixels.
        embed_dim: Width of the joint space.
        vision_width, vision_layers, vision_heads: The vision tower.
        text_width, text_layers, text_heads: The text tower.
        context_length: The most tokens a text may have, with the start and the end token.
        vocab_size: Rows of the token embedding.
        quick_gelu: Whether the MLPs use ``x * sigmoid(1.702 x)`` instead of GELU.
        mean, std: Per-channel normalisation of pixels in [0, 1].
        interpolation: Filter that resizes the short side to ``image_size``.
        weights_sha256: Hash of all weights. It does not depend on the file format
            (:func:`components.backbones.weights.weights_sha256`).
        family: The family of the vision tower (:data:`components.backbones.families.FAMILIES`).
        class_token: Whether a frame's tokens begin with a class token.
        resize: ``shortest`` crops the centre of a frame, ``squash`` does not keep the ratio of its sides.
        text_readout: The token of a text that is read out.
        causal_text: Whether a token of a text sees only those before it.
        tokenizer_sha256: Hash of the tokenizer's file
            (:class:`components.backbones.tokenizers.FileTokenizer`). None for CLIP's byte pairs, which need no file.
    """

    model: str
    image_size: int
    patch_size: int
    embed_dim: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    text_width: int
    text_layers: int
    text_heads: int
    context_length: int
    vocab_size: int
    quick_gelu: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    weights_sha256: str
    family: str = "clip"
    class_token: bool = True
    resize: str = "shortest"
    text_readout: str = "argmax"
    causal_text: bool = True
    tokenizer_sha256: str | None = None

    @property
    def patches(self) -> int:
        """Patches per frame."""
        return (self.image_size // self.patch_size) ** 2

    def to_dict(self) -> dict[str, Any]:
        """A mapping as JSON holds it. Fields with a default are left out where they have it, as on plain CLIP."""
        defaults = {field.name: field.default for field in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value != defaults[key]
        }

    def differences(self, other: BackboneSpec) -> list[str]:
        """The fields in which two specs differ."""
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]
