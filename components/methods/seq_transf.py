"""CLIP4Clip's seqTransf head on a frozen CLIP (Luo et al., Neurocomputing 2022; a row of MV-Adapter's tables).

Frame features plus positions go through a small transformer over the frames (padding masked as keys), and what comes
out is added to them: ``z + Transformer(z + positions)``; then CLIP4Clip's mean of normalised frames. Four layers of the
joint space's width and 77 positions give the printed 8.45 % of ViT-B/16 (12,648,960). As in CLIP4Clip they start as the
first layers and the positions of CLIP's text tower (``start: text``, where the widths agree), so the method does not
start as CLIP itself.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components import config
from components.backbones.clip import Backbone
from components.errors import ConfigError
from components.methods.base import Method, MethodSettings, TrainedSettings, mean_pool
from components.methods.parts import Block


@dataclass(frozen=True, config=config.STRICT)
class SeqTransfSettings(TrainedSettings):
    """Sizes and start of the head.

    Attributes:
        layers: transformer blocks.
        heads: attention heads; None for one per 64 channels, as in CLIP.
        start: ``text`` copies the text tower's first layers and positions, ``random`` draws them.
    """

    layers: Annotated[int, Field(ge=1)] = 4
    heads: Annotated[int, Field(ge=1)] | None = None
    start: Literal["text", "random"] = "text"


class SeqTransf(Method):
    """A transformer over frame features."""

    name: ClassVar[str] = "seq_transf"
    Settings: ClassVar[type[MethodSettings]] = SeqTransfSettings
    temporal = True
    starts_as_identity = False
    pools_itself = True

    def __init__(self, backbone: Backbone, settings: SeqTransfSettings, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        spec = backbone.spec
        width = spec.embed_dim
        heads = settings.heads or max(1, width // 64)
        if width % heads:
            raise ConfigError(
                "heads do not divide the joint space", where="methods.seq_transf.heads", found=heads,
                expected=f"a divisor of {width}",
            )  # fmt: skip
        rows = max(frames, spec.context_length)
        self.positions = nn.Parameter(torch.randn(rows, width) * 0.02)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(settings.layers)])
        if settings.start == "text":
            self._start_as_text()

    @torch.no_grad()
    def _start_as_text(self) -> None:
        spec, tower = self.spec, self.backbone.text
        if spec.text_width != spec.embed_dim or self.settings.layers > spec.text_layers:
            raise ConfigError(
                "the text tower has no layers of the head's size",
                where="methods.seq_transf.start",
                found=f"text width {spec.text_width} with {spec.text_layers} layers",
                expected=f"width {spec.embed_dim} with at least {self.settings.layers} layers",
                cure="start: random",
            )
        self.positions[: spec.context_length] = tower.positional_embedding
        for own, text in zip(self.blocks, tower.layers.blocks, strict=False):
            _copy_block(own, text)

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        x = features + self.positions[: features.shape[1]]
        for block in self.blocks:
            x = block(x, keys=mask)
        return mean_pool(features + x, mask)


def _copy_block(own: Any, text: Any) -> None:
    own.qkv.weight.copy_(text.attn.in_proj_weight)
    own.qkv.bias.copy_(text.attn.in_proj_bias)
    pairs = (
        (own.out, text.attn.out_proj),
        (own.norm1, text.ln_1),
        (own.norm2, text.ln_2),
        (own.fc1, text.mlp.c_fc),
        (own.fc2, text.mlp.c_proj),
    )
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())
