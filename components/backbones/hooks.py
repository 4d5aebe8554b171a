"""Where a method acts in a tower, and what is known about the sequences there.

A method gives each tower a :class:`Hooks` object. By default, every hook returns its tensor unchanged. One layer is::

    x = before_layer(i, x)                                    prompts, ST-Adapter, joint space-time layout
    h = ln_1(x);  qkv = project(i, "qkv", h, W h + b)         LoRA
    a = project(i, "out", o, W o + b), o = attention(qkv)     LoRA;  flow.attention masks the keys of padding
    x = x + after_attention(i, x, h, a)                       adapters next to attention (from x or h) or after it
    h = ln_2(x);  f = project(i, "fc", h, W h + b)            LoRA
    u = after_activation(i, act(f))                           IA3
    m = project(i, "proj", u, W u + b)                        LoRA
    x = x + after_mlp(i, x, h, m)                             adapters next to the MLP (from x or h) or after it
    x = after_layer(i, x)                                     adapters between layers

``before_positions`` and ``after_positions`` come before the first layer; in the vision tower, also before ``ln_pre``.

A hook that changes the layout of the sequence writes it into :class:`Flow`. Prompts move ``flow.readout`` and set
``flow.own``. A joint space-time layout (:meth:`Flow.join`) folds the frames of a video into one sequence. Hooks that
work on CLIP's tokens read them with :meth:`Flow.own_tokens` and add to them with :meth:`Flow.add_own`, so methods
compose (:class:`Chain`) in any layout. Temporal heads on frame features belong to ``Method.pool``. Training of CLIP's
weights is the method's choice of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from components.backbones.host import on_host

Part = Literal["qkv", "out", "fc", "proj"]


@dataclass
class Flow:
    """What is known about the sequences in one pass of a tower. Hooks that change the layout write it.

    Attributes:
        frames: T, frames per video; 1 for texts.
        mask: ``bool[B, T]``, valid frames; None for texts and single images.
        readout: ``int64[n]`` or ``int64[n, R]``, the columns of each sequence that are read out; None for the first
            column (class token).
        own: ``int64[...]``, the columns of CLIP's tokens in order; None while the sequence holds no others.
        attention: Boolean or additive mask with 4 dimensions, broadcastable to ``[n, heads, L, L]``. It replaces the
            tower's mask; None keeps that one.
        joint: Whether a sequence is a whole video, its frames one after the other.
        pooled_only: Whether the sequence has been cut to the read-out columns (in the last layer).
    """

    frames: int = 1
    mask: Tensor | None = None
    readout: Tensor | None = None
    own: Tensor | None = None
    attention: Tensor | None = None
    joint: bool = False
    pooled_only: bool = False

    def own_tokens(self, x: Tensor) -> Tensor:
        """CLIP's tokens, one row per frame or text: ``float[n, L, D] -> float[B*T, 1+N, D]``.

        Once the sequence has been cut to the read-out tokens, these are returned.
        """
        if self.pooled_only:
            return x
        x = x if self.own is None else x[:, self.own]
        return x.reshape(x.shape[0] * self.frames, -1, x.shape[-1]) if self.joint else x

    def add_own(self, x: Tensor, delta: Tensor) -> Tensor:
        """``x`` with ``delta`` added to CLIP's tokens; ``delta`` has the shape that :meth:`own_tokens` returns."""
        if not self.pooled_only:
            delta = delta.reshape(x.shape[0], -1, x.shape[-1]) if self.joint else delta
            if self.own is not None:
                return x.index_add(1, self.own, delta.to(x.dtype))
        return x + delta

    def join(self, x: Tensor) -> Tensor:
        """Folds the frames of each video into one sequence: ``float[B*T, 1+N, D] -> float[B, T*(1+N), D]``.

        From then on, the class token of each frame is read out and the keys of padding frames are masked.
        """
        tokens = x.shape[1]
        x = x.reshape(-1, self.frames * tokens, x.shape[-1])
        self.readout = torch.arange(0, x.shape[1], tokens, device=x.device).expand(x.shape[0], -1)
        self.own, self.joint = None, True
        self.attention = None
        if self.mask is not None and not all_valid(self.mask):
            self.attention = self.mask.repeat_interleave(tokens, dim=1)[:, None, None]
        return x

    def extend(self, count: int) -> None:
        """Makes room in the attention mask for ``count`` more columns at the end that are not CLIP's tokens."""
        if self.attention is not None:
            self.attention = F.pad(self.attention, (0, count), value=True)


class Hooks:
    """The places where a method acts in one tower. ``x, h, a, m: float[n, L, D]`` are n sequences of L tokens."""

    # The last layer must compute all tokens. Set this where a hook there mixes tokens or reads more than one.
    whole_last_layer: bool = False
    # The text must keep the columns after the batch's longest text. Set this where another token is read out.
    whole_text: bool = False

    def before_positions(self, x: Tensor, flow: Flow) -> Tensor:
        """Embedded tokens (vision: class token and patches) before the position embedding is added."""
        return x

    def after_positions(self, x: Tensor, flow: Flow) -> Tensor:
        """Embedded tokens with positions; in the vision tower, before ``ln_pre``."""
        return x

    def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        """The input of layer ``i``."""
        return x

    def project(self, i: int, part: Part, x: Tensor, y: Tensor, flow: Flow) -> Tensor:
        """``y``, the output of a linear map of layer ``i``, for its input ``x``."""
        return y

    def after_attention(self, i: int, x: Tensor, h: Tensor, a: Tensor, flow: Flow) -> Tensor:
        """What attention adds to ``x``, given ``h = ln_1(x)``."""
        return a

    def after_activation(self, i: int, u: Tensor, flow: Flow) -> Tensor:
        """``u: float[n, L, W]``, the MLP's activations (W hidden units) before its second linear map."""
        return u

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        """What the MLP adds to ``x``, given ``h = ln_2(x)``."""
        return m

    def after_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        """The output of layer ``i``."""
        return x


PLAIN = Hooks()


class Chain(Hooks):
    """Several methods' hooks in one tower. The first acts first; around a layer, the first is the outermost."""

    def __init__(self, links: Sequence[Hooks]) -> None:
        self.links = list(links)
        self.whole_last_layer = any(link.whole_last_layer for link in self.links)
        self.whole_text = any(link.whole_text for link in self.links)

    def before_positions(self, x: Tensor, flow: Flow) -> Tensor:
        for link in self.links:
            x = link.before_positions(x, flow)
        return x

    def after_positions(self, x: Tensor, flow: Flow) -> Tensor:
        for link in self.links:
            x = link.after_positions(x, flow)
        return x

    def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        for link in self.links:
            x = link.before_layer(i, x, flow)
        return x

    def project(self, i: int, part: Part, x: Tensor, y: Tensor, flow: Flow) -> Tensor:
        for link in self.links:
            y = link.project(i, part, x, y, flow)
        return y

    def after_attention(self, i: int, x: Tensor, h: Tensor, a: Tensor, flow: Flow) -> Tensor:
        for link in self.links:
            a = link.after_attention(i, x, h, a, flow)
        return a

    def after_activation(self, i: int, u: Tensor, flow: Flow) -> Tensor:
        for link in self.links:
            u = link.after_activation(i, u, flow)
        return u

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        for link in self.links:
            m = link.after_mlp(i, x, h, m, flow)
        return m

    def after_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        for link in reversed(self.links):
            x = link.after_layer(i, x, flow)
        return x


def all_valid(mask: Tensor) -> bool:
    """Whether no frame is padding. On the meta device, where nothing has a value, this is assumed."""
    return mask.is_meta or bool(on_host(mask).all())
