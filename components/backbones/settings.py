"""The ``backbone`` block of params.yaml."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from components.config import STRICT


@dataclass(frozen=True, config=STRICT)
class BackboneSettings:
    """The frozen CLIP: an open_clip model name or the path of a model config, and its weights."""

    model: str
    pretrained: str
    quick_gelu: bool = False
