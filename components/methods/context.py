"""Context prompts of VoP^C: prompts per frame, made from the class tokens of a video (VoP, section 3.3, equation 6)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from components.backbones.hooks import Flow, all_valid
from components.backbones.host import on_host
from components.errors import ConfigError
from components.methods.parts import Block, float32

ContextKind = Literal["bilstm", "lstm", "transformer"]


class ContextPrompts(nn.Module):
    """``split(FC(CMM(C)))``: a context module along the frames and a linear map. All layers share both.

    Args:
        width: D_v.
        count: The number of prompts per frame.
        frames: T, the number of a transformer's positions.
        kind: The context module, which reads the class tokens along the frames.
        hidden: Its width, per direction. None means D_v.
        depth: The number of its layers. None means 1, or 4 with a transformer.

    Raises:
        ConfigError: A transformer has another width than the tower.
    """

    def __init__(
        self, width: int, count: int, frames: int, *, kind: ContextKind, hidden: int | None, depth: int | None
    ) -> None:
        super().__init__()
        self.count = count
        hidden = hidden or width
        self.module: nn.Module
        if kind == "transformer":
            if hidden != width:
                raise ConfigError(
                    "a transformer must have the tower's width",
                    where="methods.vop.context_width",
                    found=hidden,
                    expected=width,
                    cure="leave it out",
                )
            self.module = _Transformer(width, depth or 4, frames)
            out = width
        else:
            both = kind == "bilstm"
            self.module = nn.LSTM(width, hidden, depth or 1, batch_first=True, bidirectional=both)
            out = hidden * (1 + both)
        self.fc = nn.Linear(out, count * width)

    def forward(self, classes: Tensor, flow: Flow) -> Tensor:
        """The class tokens that enter a layer, ``float[B*T, D]``, to prompts, ``float[B*T, count, D]``."""
        assert flow.mask is not None, "the vision tower passes the frame mask"
        tokens = classes.view(*flow.mask.shape, -1)
        # LSTM kernels have no mixed precision. The module is small, so it stays in float32.
        with float32(tokens.device):
            context = self._context(tokens.float(), flow.mask)
            prompts: Tensor = self.fc(context)
        return prompts.view(classes.shape[0], self.count, classes.shape[-1])

    def _context(self, tokens: Tensor, mask: Tensor) -> Tensor:
        module: Any = self.module
        if isinstance(module, _Transformer):
            return module(tokens, mask)
        if all_valid(mask):
            return module(tokens)[0]
        # The backward direction must start at a video's last frame, not in its padding.
        packed = pack_padded_sequence(tokens, on_host(mask).sum(dim=1), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(module(packed)[0], batch_first=True, total_length=mask.shape[1])[0]


class _Transformer(nn.Module):
    """Pre-norm blocks over frames with learned positions."""

    def __init__(self, width: int, depth: int, frames: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(frames, width) * 0.02)
        self.blocks = nn.ModuleList([Block(width, max(1, width // 64)) for _ in range(depth)])

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """``float[B, T, D], bool[B, T] -> float[B, T, D]``."""
        x = tokens + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, keys=mask)
        return x
