"""CLIP4Clip's seqTransf head on a frozen CLIP (Luo et al., Neurocomputing 2022; a row of MV-Adapter's tables).

A small transformer reads the frame features plus positions, with padding masked as keys. Its output is added to the
features: ``z + Transformer(z + positions)``. CLIP4Clip's mean of normalised frames follows. Four layers of the joint
space's width and 77 positions give the printed 8.45 % of ViT-B/16 (12,648,960).

As in CLIP4Clip, the layers and positions start as copies of the first layers and the positions of CLIP's text tower
(``start: text``, which needs equal widths). The method does not start as CLIP itself.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.config import STRICT
from components.errors import ConfigError
from components.methods.base import Method, TrainedSettings, mean_pool
from components.methods.parts import Block


@dataclass(frozen=True, config=STRICT)
class SeqTransfSettings(TrainedSettings):
    """Sizes and start of the head.

    Attributes:
        layers: The number of transformer blocks.
        heads: The number of attention heads. None means one per 64 channels, as in CLIP.
        start: ``text`` copies the text tower's first layers and positions. ``random`` draws them.
    """

    layers: Annotated[int, Field(ge=1)] = 4
    heads: Annotated[int, Field(ge=1)] | None = None
    start: Literal["text", "random"] = "text"


class SeqTransf(Method[SeqTransfSettings]):
    """A transformer over frame features."""

    temporal = True
    starts_as_identity = False
    pools_itself = True

    def setup(self) -> None:
        spec, settings = self.spec, self.settings
        width = spec.embed_dim
        heads = settings.heads or max(1, width // 64)
        if width % heads:
            raise ConfigError(
                "heads do not divide the joint space",
                where=f"methods.{self.name}.heads",
                found=heads,
                expected=f"a divisor of {width}",
            )
        rows = max(self.frames, spec.context_length)
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
                where=f"methods.{self.name}.start",
                found=f"text width {spec.text_width} with {spec.text_layers} layers",
                expected=f"width {spec.embed_dim} with at least {self.settings.layers} layers",
                cure="set start: random",
            )
        self.positions[: spec.context_length] = tower.positional_embedding
        for block, text_block in zip(self.blocks, tower.layers.blocks, strict=False):
            _copy_block(block, text_block)

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        x = features + self.positions[: features.shape[1]]
        for block in self.blocks:
            x = block(x, keys=mask)
        return mean_pool(features + x, mask)


def _copy_block(block: Any, text_block: Any) -> None:
    block.qkv.weight.copy_(text_block.attn.in_proj_weight)
    block.qkv.bias.copy_(text_block.attn.in_proj_bias)
    pairs = (
        (block.out, text_block.attn.out_proj),
        (block.norm1, text_block.ln_1),
        (block.norm2, text_block.ln_2),
        (block.fc1, text_block.mlp.c_fc),
        (block.fc2, text_block.mlp.c_proj),
    )
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())
