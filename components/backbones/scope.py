"""The error of a model that is out of scope."""

from __future__ import annotations

from components.errors import BackboneError


def unsupported(model: str, reason: str) -> BackboneError:
    """The error of a model that no family of towers covers.

    Args:
        model: Its name.
        reason: What it has, as a sentence without a full stop.
    """
    return BackboneError(
        f"unsupported backbone: {reason}",
        where="backbone.model",
        found=model,
        expected="two towers of plain transformer blocks: CLIP, SigLIP, PE-Core or MobileCLIP2-B and -L",
        cure="for example ViT-B-32, ViT-B-16-SigLIP2 or PE-Core-B-16",
    )
