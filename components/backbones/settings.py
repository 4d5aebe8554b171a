"""The ``backbone`` block of params.yaml."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from components.config import STRICT


@dataclass(frozen=True, config=STRICT)
class BackboneSettings:
    """The frozen CLIP.

    Attributes:
        model: A model name of open_clip, ``mini``, or the path of a model config (.json).
        pretrained: A pretrained tag of open_clip, or the path of a weights file.
        quick_gelu: Whether to use QuickGELU even if neither the config nor the tag asks for it.
    """

    model: str
    pretrained: str
    quick_gelu: bool = False
