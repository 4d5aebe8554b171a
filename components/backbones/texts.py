"""The text tower of any open_clip model whose text encoder is open_clip's transformer."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from components.backbones.scope import unsupported
from components.backbones.towers import TextReadout, TextTower


def text_tower(clip: Any, model: str, *, starts: bool) -> TextTower:
    """The tower over open_clip's modules.

    Args:
        clip: open_clip's ``CLIP``, which holds the text parts itself, or ``CustomTextCLIP``.
        model: Its name, for messages.
        starts: Whether the tokenizer begins every text with a start token.

    Raises:
        BackboneError: The tower computes something else. The message names the difference.
    """
    text = getattr(clip, "text", clip)
    blocks = getattr(getattr(text, "transformer", None), "resblocks", [None])
    readout: TextReadout | Literal["none"] = (
        getattr(text, "text_pool_type", None) or getattr(text, "pool_type", None) or "none"
    )
    reasons = {
        "its text blocks are not CLIP's": not all(type(block) is ResidualAttentionBlock for block in blocks),
        "its text projection is not one linear map": not isinstance(
            getattr(text, "text_projection", None), nn.Parameter | nn.Linear | None
        ),
        "its text tower has a class token": getattr(text, "cls_emb", None) is not None,
        "its text tower masks padding": bool(getattr(text, "use_pad_mask", False)),
        f"its text is read out by {readout!r}": readout not in get_args(TextReadout),
    }
    for reason, holds in reasons.items():
        if holds:
            raise unsupported(model, reason)
    end = getattr(text, "text_eos_id", None) or getattr(text, "eos_id", None) or 0
    return TextTower(text, cast(TextReadout, readout), end, causal=text.attn_mask is not None, prefix=int(starts))
