"""Where a method acts in a tower, and what is known about the sequences there.

A method gives each tower a :class:`Hooks` object. By default, every hook returns its tensor unchanged. One layer is::

    x = before_layer(i, x)                                    prompts, ST-Adapter, joint space-time layout
    h = ln_1(x);  qkv = project(i, "qkv", h, W h + b)         LoRA
    o = after_heads(i, qkv, attention(qkv))                   other queries;  flow.attention masks the keys of padding
    a = project(i, "out", o, W o + b)                         LoRA
    x = x + after_attention(i, x, h, a)                       adapters next to attention (from x or h) or after it
    x = before_mlp(i, x, qkv)                                 merging of tokens
    h = ln_2(x);  f = project(i, "fc", h, W h + b)            LoRA
    u = after_activation(i, act(f))                           IA3
    m = project(i, "proj", u, W u + b)                        LoRA
    x = x + after_mlp(i, x, h, m)                             adapters next to the MLP (from x or h) or after it
    x = after_layer(i, x)                                     adapters between layers

``before_patches`` comes before the vision tower's patch embedding. ``before_positions`` and ``after_positions`` come
before the first layer; in the vision tower, also before ``ln_pre``.

A hook that changes the layout of the sequence does it through :class:`Flow`. Prompts are held there by owner
(:meth:`Flow.exchange`, :meth:`Flow.exchange_tail`), so methods that put tokens into one tower find their places and
leave each other's alone. A joint space-time layout (:meth:`Flow.join`) folds the frames of a video into one sequence.
Hooks that work on CLIP's tokens read them with :meth:`Flow.own_tokens` and add to them with :meth:`Flow.add_own`, so
methods compose (:class:`Chain`) in any layout. Hooks that merge tokens (``merges_tokens``) leave no frames behind, so
they go together only with hooks that treat all tokens alike (``token_wise``). Temporal heads on frame features belong
to ``Method.pool``. Training of CLIP's weights is the method's choice of parameters.
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


@dataclass(frozen=True)
class Held:
    """Tokens that a method put into a sequence: ``count`` tokens in a row of the hooks ``owner``."""

    owner: Hooks
    count: int


@dataclass
class Flow:
    """What is known about the sequences in one pass of a tower. Hooks that change the layout change it here.

    A frame or text is ``[first token, prompts, CLIP's other tokens]``, and the prompts of each owner are together. In a
    tower without a first token, prompts come before all others. In a joint layout, the frames of a video follow each
    other, and prompts of the whole video follow the frames.

    Attributes:
        frames: T, frames per video; 1 for texts.
        mask: ``bool[B, T]``, valid frames; None for texts and single images.
        prefix: 1 if a sequence starts with a class token or a start token, 0 if not. The tower sets it.
        readout: ``int64[n]`` or ``int64[n, R]``, the columns of each sequence that are read out; None for the first
            column (class token). A tower that pools all tokens does not use it.
        own: ``int64[...]``, the columns of CLIP's tokens in order; None while the sequence holds no others.
        attention: Boolean or additive mask with 4 dimensions, broadcastable to ``[n, heads, L, L]``. It replaces the
            tower's mask; None keeps that one.
        joint: Whether a sequence is a whole video, its frames one after the other.
        pooled_only: Whether the sequence has been cut to the read-out columns (in the last layer).
        sizes: ``float[n, L]``, how many of CLIP's tokens each token is the mean of; None while none are merged.
        held: The prompts of each frame or text, in the order of their places.
        tail: The prompts of each video at the end of a joint sequence, in the order of their places.
    """

    frames: int = 1
    mask: Tensor | None = None
    prefix: int = 1
    readout: Tensor | None = None
    own: Tensor | None = None
    attention: Tensor | None = None
    joint: bool = False
    pooled_only: bool = False
    sizes: Tensor | None = None
    held: tuple[Held, ...] = ()
    tail: tuple[Held, ...] = ()

    def own_tokens(self, x: Tensor) -> Tensor:
        """CLIP's tokens, one row per frame or text: ``float[n, L, D] -> float[B*T, prefix+N, D]``.

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

    def first_tokens(self, x: Tensor) -> Tensor:
        """The first token of each frame or text: ``float[n, L, D] -> float[B*T, D]``.

        In a tower without a class token, the mean of a frame's patches stands for it.
        """
        if not self.prefix:
            return self.own_tokens(x).mean(dim=1)
        if not self.joint:
            return x[:, 0]
        frames = self._in_frames(x)
        return x[:, : frames : frames // self.frames].flatten(0, 1)

    def with_first_tokens(self, x: Tensor, first: Tensor) -> Tensor:
        """``x: float[n, L, D]`` with ``first: float[B*T, D]`` as the first token of each frame or text."""
        if not self.joint:
            return torch.cat([first.unsqueeze(1).to(x.dtype), x[:, 1:]], dim=1)
        frames = self._in_frames(x)
        columns = torch.arange(0, frames, frames // self.frames, device=x.device)
        return x.index_copy(1, columns, first.to(x.dtype).unflatten(0, (-1, self.frames)))

    def exchange(self, x: Tensor, owner: Hooks, fresh: Tensor | None, keep: int = 0) -> Tensor:
        """``x`` with the prompts of ``owner`` in each frame or text replaced.

        An owner's first prompts come directly after the first token, or at the start if there is none. The owner keeps
        this place next to the prompts of others, even while it holds no prompt. In a joint layout too, each frame has
        its prompts.

        Args:
            x: ``float[n, L, D]``, in the present layout.
            owner: The hooks that put the prompts in.
            fresh: ``float[B*T, P, D]``, the new prompts. None removes the present ones.
            keep: How many of the present prompts stay, before the new ones.
        """
        old, start = self._place(self.held, owner)
        count = keep + (0 if fresh is None else fresh.shape[1])
        if old is None:
            self.held = (Held(owner, count), *self.held)
        else:
            self.held = tuple(Held(owner, count) if item.owner is owner else item for item in self.held)
        before = 0 if old is None else old.count
        if count == before == 0:
            return x
        frames = self._in_frames(x)
        units, tail = x[:, :frames], x[:, frames:]
        if self.joint:
            units = units.reshape(x.shape[0] * self.frames, -1, x.shape[-1])
        parts = [] if fresh is None else [fresh.to(x.dtype)]
        start += self.prefix
        units = torch.cat([units[:, : start + keep], *parts, units[:, start + before :]], dim=1)
        if count != before:
            self._laid_out(units, count - before)
        return torch.cat([units.reshape(x.shape[0], -1, x.shape[-1]), tail], dim=1) if self.joint else units

    def exchange_tail(self, x: Tensor, owner: Hooks, fresh: Tensor | None) -> Tensor:
        """``x``, in a joint layout, with the prompts of ``owner`` at the end of each video replaced.

        Args:
            x: ``float[B, L, D]``.
            owner: The hooks that put the prompts in.
            fresh: ``float[B, P, D]``, the new prompts. None removes the present ones.
        """
        frames = self._in_frames(x)
        old, start = self._place(self.tail, owner)
        count, before = (0 if fresh is None else fresh.shape[1]), (0 if old is None else old.count)
        if old is None:
            start = sum(item.count for item in self.tail)
            self.tail = (*self.tail, Held(owner, count))
        else:
            self.tail = tuple(Held(owner, count) if item.owner is owner else item for item in self.tail)
        if count == before == 0:
            return x
        if count != before:
            self._laid_out(x[:, :frames].reshape(x.shape[0] * self.frames, -1, x.shape[-1]), 0)
        start += frames
        return torch.cat([x[:, :start], *([] if fresh is None else [fresh.to(x.dtype)]), x[:, start + before :]], dim=1)

    def join(self, x: Tensor) -> Tensor:
        """Folds the frames of each video into one sequence: ``float[B*T, L, D] -> float[B, T*L, D]``.

        From then on, the class token of each frame is read out and the keys of padding frames are masked. Prompts stay
        with their frame. A sequence that is joint already stays as it is.
        """
        if self.joint:
            return x
        self.joint = True
        self._laid_out(x, 0)
        return x.reshape(-1, self.frames * x.shape[1], x.shape[-1])

    @staticmethod
    def _place(items: tuple[Held, ...], owner: Hooks) -> tuple[Held | None, int]:
        """The item of ``owner`` and the number of tokens before it; None and 0 where it has none."""
        before = 0
        for item in items:
            if item.owner is owner:
                return item, before
            before += item.count
        return None, 0

    def _in_frames(self, x: Tensor) -> int:
        """The number of columns of ``x`` before the prompts at the end of a video."""
        return x.shape[1] - sum(item.count for item in self.tail)

    def _laid_out(self, units: Tensor, added: int) -> None:
        """Sets the columns and the mask for frames or texts ``float[B*T, L, D]`` that have ``added`` more tokens."""
        length, device = units.shape[1], units.device
        held, tail = sum(item.count for item in self.held), sum(item.count for item in self.tail)
        own = torch.arange(length, device=device)
        own = torch.cat([own[: self.prefix], own[self.prefix + held :]]) if held else own
        if not self.joint:
            self.own = own if held else None
            if self.readout is not None:
                self.readout = self.readout + added
            return
        total, videos = self.frames * length, units.shape[0] // self.frames
        starts = torch.arange(0, total, length, device=device)
        self.readout = starts.expand(videos, -1)
        self.own = (starts[:, None] + own).flatten() if held or tail else None
        self.attention = None
        if self.mask is not None and not all_valid(self.mask):
            keys = self.mask.repeat_interleave(length, dim=1)
            self.attention = F.pad(keys, (0, tail), value=True)[:, None, None]


class Hooks:
    """The places where a method acts in one tower. ``x, h, a, m: float[n, L, D]`` are n sequences of L tokens."""

    # The last layer must compute all tokens. Set this where a hook there mixes tokens or reads more than one.
    whole_last_layer: bool = False
    # The text must keep the columns after the batch's longest text. Set this where another token is read out.
    whole_text: bool = False
    # Whether tokens are put into the sequence.
    adds_tokens: bool = False
    # Why no other method may put tokens into the same tower; empty where others may.
    alone: str = ""
    # Whether the hooks treat all tokens alike, without looking for frames, patches or the first token.
    token_wise: bool = False
    # Whether tokens of the tower are merged. Other hooks there must then be token-wise.
    merges_tokens: bool = False
    # Whether a prompt is read out in place of CLIP's first token.
    reads_prompt: bool = False

    def before_patches(self, frames: Tensor, flow: Flow) -> Tensor:
        """The pixels that the vision tower gets: ``float[B*T, 3, S, S]``."""
        return frames

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

    def after_heads(self, i: int, qkv: Tensor, o: Tensor, flow: Flow) -> Tensor:
        """``o: float[n, L, D]``, the heads' output before attention's last map, given ``qkv: float[n, L, 3D]``.

        In the last layer ``o`` may be cut to the read-out tokens (``flow.pooled_only``). ``qkv`` has all tokens.
        """
        return o

    def after_attention(self, i: int, x: Tensor, h: Tensor, a: Tensor, flow: Flow) -> Tensor:
        """What attention adds to ``x``, given ``h = ln_1(x)``."""
        return a

    def before_mlp(self, i: int, x: Tensor, qkv: Tensor, flow: Flow) -> Tensor:
        """``x`` between attention and MLP, given attention's ``qkv: float[n, L, 3D]``. Tokens may be merged here."""
        return x

    def after_activation(self, i: int, u: Tensor, flow: Flow) -> Tensor:
        """``u: float[n, L, W]``, the MLP's activations (W hidden units) before its second linear map."""
        return u

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        """What the MLP adds to ``x``, given ``h = ln_2(x)``."""
        return m

    def after_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        """The output of layer ``i``."""
        return x


class _Plain(Hooks):
    token_wise = True


PLAIN = _Plain()


class Chain(Hooks):
    """Several methods' hooks in one tower. The first acts first; around a layer, the first is the outermost."""

    def __init__(self, links: Sequence[Hooks]) -> None:
        self.links = list(links)
        self.whole_last_layer = any(link.whole_last_layer for link in self.links)
        self.whole_text = any(link.whole_text for link in self.links)

    def before_patches(self, frames: Tensor, flow: Flow) -> Tensor:
        for link in self.links:
            frames = link.before_patches(frames, flow)
        return frames

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

    def after_heads(self, i: int, qkv: Tensor, o: Tensor, flow: Flow) -> Tensor:
        for link in self.links:
            o = link.after_heads(i, qkv, o, flow)
        return o

    def after_attention(self, i: int, x: Tensor, h: Tensor, a: Tensor, flow: Flow) -> Tensor:
        for link in self.links:
            a = link.after_attention(i, x, h, a, flow)
        return a

    def before_mlp(self, i: int, x: Tensor, qkv: Tensor, flow: Flow) -> Tensor:
        for link in self.links:
            x = link.before_mlp(i, x, qkv, flow)
        return x

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
