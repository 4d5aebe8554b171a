"""The ``backbone`` block of params.yaml."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from components.config import STRICT


@dataclass(frozen=True, config=STRICT)
class BackboneSettings:
    """The frozen backbone.

    Attributes:
        model: A model name of open_clip, ``mini``, the path of a model config (.json), or ``hf-hub:owner/name`` for the
            config of a repository.
        pretrained: A pretrained tag of open_clip, a weights file, a folder of weights, or a Hugging Face repository
            (``owner/name``, ``owner/name@revision``).
        quick_gelu: Whether the MLPs use QuickGELU. None takes what the weights say, and a value that contradicts them
            is an error. Only a weights file that says nothing needs this setting.
        tokenizer: A tokenizer.json, or the folder that holds it. None looks next to the weights.
    """

    model: str
    pretrained: str
    quick_gelu: bool | None = None
    tokenizer: str | None = None
