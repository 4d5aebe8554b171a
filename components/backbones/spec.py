"""What a backbone is, in numbers: the identity that an adapter is bound to. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from components.errors import AdapterError


@dataclass(frozen=True)
class BackboneSpec:
    """Shapes, activation, preprocessing and weights of a ViT CLIP.

    Attributes:
        model: open_clip model name, ``mini``, or the file name of a model config.
        image_size: side of the square input, pixels.
        patch_size: side of a square patch, pixels.
        embed_dim: width of the joint space.
        vision_width, vision_layers, vision_heads: the vision tower.
        text_width, text_layers, text_heads: the text tower.
        context_length: most tokens a text may have, start and end included.
        vocab_size: rows of the token embedding.
        quick_gelu: whether the MLPs use ``x * sigmoid(1.702 x)`` in place of GELU.
        mean, std: per-channel normalisation of pixels in [0, 1].
        interpolation: filter of the resize of the short side to ``image_size``.
        weights_sha256: hash of all weights, the same however they were stored (:func:`clip.weights_sha256`).
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

    @property
    def patches(self) -> int:
        """Patches per frame."""
        return (self.image_size // self.patch_size) ** 2

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able mapping with a key per field."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: object = None) -> BackboneSpec:
        """The inverse of :meth:`to_dict`.

        Raises:
            AdapterError: a field is missing or unknown.
        """
        names = {field.name for field in fields(cls)}
        if set(raw) != names:
            raise AdapterError(
                "backbone spec has other fields", where=where, found=sorted(raw), expected=", ".join(sorted(names))
            )
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in raw.items()}
        return cls(**values)

    def differences(self, other: BackboneSpec) -> list[str]:
        """The fields in which two specs differ."""
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]
