"""The residual attention block that every family's layers are brought to, and rotary positions.

open_clip's blocks have these names already. timm's modules get them without a copy, so methods find the same parts in
every family: ``ln_1``, ``attn`` (``in_proj_weight``, ``in_proj_bias``, ``out_proj``, ``num_heads``), ``ls_1``,
``ln_2``, ``mlp`` (``c_fc``, ``gelu``, ``c_proj``) and ``ls_2``.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from components.backbones.hooks import Flow


class Attention(nn.Module):
    """The parameters of a multi-head attention, under the names of ``nn.MultiheadAttention``.

    Args:
        qkv: The linear map to queries, keys and values, ``[D] -> [3 D]``, with a bias.
        out: The output's linear map.
        heads: The number of heads.
    """

    def __init__(self, qkv: nn.Linear, out: nn.Linear, heads: int) -> None:
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = qkv.weight, qkv.bias
        self.out_proj = out
        self.num_heads = heads


class Block(nn.Module):
    """A pre-norm block made of timm's modules.

    Args:
        block: timm's ``Block`` or ``EvaBlock``, with a fused map to queries, keys and values, a plain MLP and no layer
            scale.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.ln_1 = block.norm1
        self.attn = Attention(block.attn.qkv, block.attn.proj, block.attn.num_heads)
        self.ls_1 = nn.Identity()
        self.ln_2 = block.norm2
        self.mlp = nn.Sequential(
            OrderedDict([("c_fc", block.mlp.fc1), ("gelu", block.mlp.act), ("c_proj", block.mlp.fc2)])
        )
        self.ls_2 = nn.Identity()


def block_fault(block: Any) -> str | None:
    """What timm's block has that :class:`Block` does not compute; None if it has nothing of that kind."""
    attention, mlp = block.attn, block.mlp
    plain = (nn.Identity, type(None))
    reasons = {
        "its blocks do not map to queries, keys and values at once": getattr(attention, "qkv", None) is None,
        "its attention has no bias": getattr(getattr(attention, "qkv", None), "bias", None) is None,
        "its attention normalises or gates": not all(
            isinstance(getattr(attention, name, None), plain) for name in ("q_norm", "k_norm", "norm", "gate")
        ),
        "its MLPs are not two linear maps": type(mlp).__name__ != "Mlp" or not isinstance(mlp.norm, nn.Identity),
        "its blocks scale their layers": not all(
            isinstance(getattr(block, name, None), plain) for name in ("ls1", "ls2", "gamma_1", "gamma_2")
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


class Rotary(nn.Module):
    """Two-dimensional rotary positions of a frame's patches. The class token and prompts have no place and no rotation.

    Args:
        sine, cosine: ``float[N, d]`` per patch and channel of a head. Channels 2i and 2i+1 form a pair.
        prefix: The number of tokens before the patches.
    """

    def __init__(self, sine: Tensor, cosine: Tensor, prefix: int) -> None:
        super().__init__()
        self._sine: Tensor
        self._cosine: Tensor
        rows = sine.new_zeros(prefix, sine.shape[1])
        self.register_buffer("_sine", torch.cat([rows, sine]), persistent=False)
        self.register_buffer("_cosine", torch.cat([rows + 1, cosine]), persistent=False)

    def forward(self, q: Tensor, k: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
        """Rotates the backbone's tokens in ``q, k: float[n, heads, L, d]``."""
        sine, cosine = self._sine, self._cosine
        if flow.joint:
            sine, cosine = sine.repeat(flow.frames, 1), cosine.repeat(flow.frames, 1)
        if flow.own is not None:
            length = q.shape[2]
            sine = sine.new_zeros(length, sine.shape[1]).index_copy(0, flow.own, sine)
            cosine = cosine.new_ones(length, cosine.shape[1]).index_copy(0, flow.own, cosine)
        return _rotated(q, sine, cosine), _rotated(k, sine, cosine)


def _rotated(x: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return (x * cosine + turned * sine).to(x.dtype)
