"""Modules that several methods use: bottleneck adapters, a small transformer block, choices of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.towers import quick_gelu
from components.errors import ConfigError

Activation = Literal["relu", "gelu", "quick_gelu"]


def activate(name: Activation, x: Tensor) -> Tensor:
    """Applies the activation ``name`` to ``x``."""
    functions: dict[Activation, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "quick_gelu": quick_gelu}
    return functions[name](x)


def chosen_layers(where: str, layers: Sequence[int] | None, depth: int) -> list[int]:
    """Chosen layers as sorted numbers from 0.

    Args:
        where: The key of the setting, for messages.
        layers: Numbers from 0. Negative numbers count from the end. None means all layers.
        depth: The number of layers in the tower.

    Raises:
        ConfigError: A number is out of range.
    """
    wanted = range(depth) if layers is None else layers
    if any(not -depth <= i < depth for i in wanted):
        raise ConfigError(
            "layer index out of range",
            where=where,
            found=list(wanted),
            expected=f"0 to {depth - 1}, or -1 to {-depth} from the end",
        )
    return sorted({i % depth for i in wanted})


def float32(device: torch.device) -> AbstractContextManager[Any]:
    """Turns mixed precision off. The meta device has no mixed precision."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class Bottleneck(nn.Module):
    """``scale * act(LN(x) W_down) W_up``. The output is zero at the start.

    Args:
        width: D, the tower's width.
        hidden: Width of the bottleneck.
        scale: Factor on the output.
        activation: The function between the two projections.
        norm: Whether a layer norm comes before W_down.
    """

    def __init__(
        self, width: int, hidden: int, *, scale: float = 1.0, activation: Activation = "relu", norm: bool = False
    ) -> None:
        super().__init__()
        self.scale, self.activation = scale, activation
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """``float[..., D] -> float[..., D]``."""
        return self.up(activate(self.activation, self.down(self.norm(x)))) * self.scale


class Block(nn.Module):
    """A pre-norm transformer block with QuickGELU.

    Args:
        width: D.
        heads: The number of attention heads.
        outer: The width that sets the standard deviations of the initialisation. None means D. MV-Adapter's release
            uses the tower's width.
    """

    def __init__(self, width: int, heads: int, outer: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        outer = width if outer is None else outer
        nn.init.normal_(self.qkv.weight, std=outer**-0.5)
        for linear in (self.out, self.fc1, self.fc2):
            nn.init.normal_(linear.weight, std=(2 * outer) ** -0.5)
        for linear in (self.qkv, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, keys: Tensor | None = None, causal: bool = False) -> Tensor:
        """``float[B, L, D] -> float[B, L, D]``.

        Args:
            x: The tokens.
            keys: ``bool[B, L]``, the tokens that can be attended to. None means all.
            causal: Whether a token attends only to itself and to the tokens before it.
        """
        rows, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if keys is None else keys[:, None, None]
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        x = x + self.out(o.transpose(1, 2).reshape(rows, length, width))
        return x + self.fc2(quick_gelu(self.fc1(self.norm2(x))))
