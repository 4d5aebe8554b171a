"""The two towers of CLIP, layer by layer over open_clip's weights, with the places where a method acts.

A method gives each tower a :class:`Hooks` object; every hook returns its tensor unchanged by default. One layer is::

    x = before_layer(i, x)                                    prompts in and out, ST-Adapter, joint space-time layout
    h = ln_1(x);  qkv = project(i, "qkv", h, W h + b)         LoRA
    a = project(i, "out", o, W o + b), o = attention(qkv)     LoRA;  flow.attention masks keys of padding
    x = x + after_attention(i, x, h, a)                       adapters beside (from h or x) or behind (from a) attention
    h = ln_2(x);  m = mlp(h), through project "fc", "proj"    LoRA
    x = x + after_mlp(i, x, h, m)                             adapters behind (m), beside (h) or beside LN + MLP (x)
    x = after_layer(i, x)                                     adapters between layers

and before the first layer come ``before_positions`` and ``after_positions`` (in the vision tower still before
``ln_pre``). What changes the layout of the sequence says so in :class:`Flow`: prompts move ``flow.readout`` and set
``flow.own``, a joint space-time layout (:meth:`Flow.join`) folds the frames of a video into one sequence. Hooks that
work on CLIP's own tokens take them by :meth:`Flow.own_tokens` and give back by :meth:`Flow.add_own`, so that methods
compose (:class:`Chain`) whatever the layout. Temporal heads on frame features stand in the method (``Method.pool``),
training of CLIP's own weights in the method's choice of parameters.

Only the read-out tokens leave the last layer, so they are computed alone unless the hooks need the others
(``whole_last_layer``); texts are cut to the longest one of the batch unless the hooks read beyond the end token. Both
change nothing but the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Part = Literal["qkv", "out", "fc", "proj"]


@dataclass
class Flow:
    """What is known about the sequences in one pass of a tower; hooks that change the layout write it.

    Attributes:
        frames: T, frames per video; 1 for texts.
        mask: ``bool[B, T]``, valid frames; None for texts and single images.
        readout: ``int64[n]`` or ``int64[n, R]``, the columns of each sequence that are read out; None for the first
            (class token).
        own: ``int64[...]``, columns of CLIP's own tokens in order; None while the sequence holds no others.
        attention: bool or additive mask, 4-dimensional, broadcastable to ``[n, heads, L, L]``, in place of the tower's
            own; None for that.
        joint: whether a sequence is a whole video, its frames one after the other.
        alone: whether the sequence has been cut to the read-out columns (in the last layer).
    """

    frames: int = 1
    mask: Tensor | None = None
    readout: Tensor | None = None
    own: Tensor | None = None
    attention: Tensor | None = None
    joint: bool = False
    alone: bool = False

    def own_tokens(self, x: Tensor) -> Tensor:
        """CLIP's own tokens, a row per frame or text: ``float[n, L, D] -> float[B*T, 1+N, D]``, or the read-out
        tokens where the sequence has been cut to them."""
        if self.alone:
            return x
        x = x if self.own is None else x[:, self.own]
        return x.reshape(x.shape[0] * self.frames, -1, x.shape[-1]) if self.joint else x

    def add_own(self, x: Tensor, delta: Tensor) -> Tensor:
        """``x`` with ``delta``, shaped as :meth:`own_tokens` gives them, added to CLIP's own tokens."""
        if not self.alone:
            delta = delta.reshape(x.shape[0], -1, x.shape[-1]) if self.joint else delta
            if self.own is not None:
                return x.index_add(1, self.own, delta.to(x.dtype))
        return x + delta

    def join(self, x: Tensor) -> Tensor:
        """Folds the frames of each video into one sequence: ``float[B*T, 1+N, D] -> float[B, T*(1+N), D]``.

        From here on the class token of each frame is read out, and the keys of padding frames are masked.
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
        """Notes ``count`` more columns at the end of the sequence that are not CLIP's own."""
        if self.attention is not None:
            self.attention = F.pad(self.attention, (0, count), value=True)


class Hooks:
    """The places where a method acts in one tower. Shapes: ``x, h, a, m: float[n, L, D]``, n sequences of L tokens."""

    # The last layer must be computed for all tokens: set where a hook there mixes tokens or reads more than one.
    whole_last_layer: bool = False
    # The text must keep the columns behind the batch's longest text: set where the read-out is not at the end token.
    whole_text: bool = False

    def before_positions(self, x: Tensor, flow: Flow) -> Tensor:
        """Embedded tokens (vision: class token and patches) before the position embedding is added."""
        return x

    def after_positions(self, x: Tensor, flow: Flow) -> Tensor:
        """The same with positions; vision: before ``ln_pre``."""
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

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        """What the MLP adds to ``x``, given ``h = ln_2(x)``."""
        return m

    def after_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        """The output of layer ``i``."""
        return x


PLAIN = Hooks()


class Chain(Hooks):
    """Several methods' hooks in one tower: the first acts first; around a layer the first is the outermost."""

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

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        for link in self.links:
            m = link.after_mlp(i, x, h, m, flow)
        return m

    def after_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        for link in reversed(self.links):
            x = link.after_layer(i, x, flow)
        return x


def all_valid(mask: Tensor) -> bool:
    """Whether no frame is padding; on the meta device, where nothing has a value, that is assumed."""
    return mask.is_meta or bool(mask.all())


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``, fused."""
    return F.silu(x * 1.702) * (1 / 1.702)


class Layers(nn.Module):
    """A stack of open_clip's residual attention blocks.

    Args:
        blocks: modules with ``ln_1, attn (nn.MultiheadAttention), ls_1, ln_2, mlp (c_fc, gelu, c_proj), ls_2``.
        causal: whether a token sees only itself and those before it.

    Attributes:
        checkpointed: whether a layer keeps only its input for the backward pass and is computed again there (set for a
            while by :func:`checkpointed`).
    """

    def __init__(self, blocks: nn.ModuleList, causal: bool) -> None:
        super().__init__()
        self.blocks = blocks
        self.causal = causal
        self.checkpointed = False

    def forward(self, x: Tensor, hooks: Hooks, flow: Flow, start: int = 0) -> Tensor:
        """The read-out tokens of every sequence after the last layer.

        Args:
            x: ``float[n, L, D]``, the input of layer ``start``.
            start: layers that ``x`` has passed.

        Returns:
            ``float[n, D]``: one per frame or text, in a joint layout too.
        """
        x = self.through(x, hooks, flow, range(start, len(self.blocks)))
        return (x if flow.alone else pick(x, flow.readout)).flatten(0, 1)

    def through(self, x: Tensor, hooks: Hooks, flow: Flow, layers: range) -> Tensor:
        """The output of the last of ``layers`` for the input of the first: ``float[n, L, D]``."""
        run = self._hooked_again if self.checkpointed and torch.is_grad_enabled() else self._hooked
        for i in layers:
            x = run(i, x, hooks, flow)
        return x

    def _hooked(self, i: int, x: Tensor, hooks: Hooks, flow: Flow) -> Tensor:
        """Layer ``i`` with the hooks before and behind it."""
        alone = i == len(self.blocks) - 1 and not hooks.whole_last_layer
        x = hooks.before_layer(i, x, flow)
        x = self._layer(i, self.blocks[i], x, hooks, flow, alone)
        return hooks.after_layer(i, x, flow)

    def _hooked_again(self, i: int, x: Tensor, hooks: Hooks, flow: Flow) -> Tensor:
        """:meth:`_hooked` in exchange of time for memory."""
        # Hooks write into the flow: each of the two passes starts from the layout that this layer found.
        found, left = replace(flow), []

        def run(x: Tensor) -> Tensor:
            left.append(replace(found))
            return self._hooked(i, x, hooks, left[-1])

        y: Tensor = checkpoint(run, x, use_reentrant=False)
        vars(flow).update(vars(left[0]))
        return y

    def _layer(self, i: int, block: Any, x: Tensor, hooks: Hooks, flow: Flow, alone: bool) -> Tensor:
        h = block.ln_1(x)
        qkv = hooks.project(i, "qkv", h, F.linear(h, block.attn.in_proj_weight, block.attn.in_proj_bias), flow)
        o = self._attend(qkv, block.attn.num_heads, flow, alone)
        if alone:
            x, h, flow.alone = pick(x, flow.readout), pick(h, flow.readout), True
        a = hooks.project(i, "out", o, block.attn.out_proj(o), flow)
        x = x + block.ls_1(hooks.after_attention(i, x, h, a, flow))
        h = block.ln_2(x)
        u = activate(block.mlp.gelu, hooks.project(i, "fc", h, block.mlp.c_fc(h), flow))
        m = hooks.project(i, "proj", u, block.mlp.c_proj(u), flow)
        return x + block.ls_2(hooks.after_mlp(i, x, h, m, flow))

    def _attend(self, qkv: Tensor, heads: int, flow: Flow, alone: bool) -> Tensor:
        n, length, width = qkv.shape
        q, k, v = qkv.view(n, length, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4).unbind(0)
        mask, causal = flow.attention, self.causal
        if alone:
            mask = self._row_mask(length, flow, qkv.device)
            q, causal = pick(q.transpose(1, 2), flow.readout).transpose(1, 2), False
        causal = causal and mask is None
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return o.transpose(1, 2).reshape(n, -1, width // 3)

    def _row_mask(self, length: int, flow: Flow, device: torch.device) -> Tensor | None:
        """The mask of the read-out rows alone, ``[n or 1, heads or 1, 1, L]``."""
        if flow.attention is not None:
            full = flow.attention
            if full.shape[-2] == 1:
                return full
            if flow.readout is None:
                return full[..., :1, :]
            full = full.expand(flow.readout.shape[0], *full.shape[1:])
            rows = torch.arange(full.shape[0], device=device)[:, None]
            return full[rows, :, flow.readout.view(len(full), -1)].transpose(1, 2)
        if not self.causal:
            return None
        columns = torch.arange(length, device=device)
        if flow.readout is None:
            return (columns < 1).view(1, 1, 1, length)
        return (columns <= flow.readout.view(flow.readout.shape[0], -1, 1)).unsqueeze(1)


@contextmanager
def checkpointed(module: nn.Module, on: bool = True) -> Iterator[None]:
    """Activation checkpointing of every layer of the towers in ``module``, for forward passes within."""
    stacks = [part for part in module.modules() if isinstance(part, Layers)]
    before = [stack.checkpointed for stack in stacks]
    for stack in stacks:
        stack.checkpointed = on
    try:
        yield
    finally:
        for stack, value in zip(stacks, before, strict=True):
            stack.checkpointed = value


def activate(act: nn.Module, x: Tensor) -> Tensor:
    """``act(x)``, with open_clip's QuickGELU in its fused form."""
    return quick_gelu(x) if isinstance(act, QuickGELU) else act(x)


def pick(x: Tensor, columns: Tensor | None) -> Tensor:
    """``x[n, columns[n, R]]``, R = 1 for one column each and for None, the first: ``[n, L, ...] -> [n, R, ...]``."""
    if columns is None:
        return x[:, :1]
    columns = columns.view(x.shape[0], -1)
    return x[torch.arange(x.shape[0], device=x.device)[:, None], columns]


class VisionTower(nn.Module):
    """Frames to features.

    Args:
        visual: open_clip's ``VisionTransformer`` with class-token pooling.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = visual.conv1
        self.class_embedding: nn.Parameter = visual.class_embedding
        self.positional_embedding: nn.Parameter = visual.positional_embedding
        self.ln_pre: nn.Module = visual.ln_pre
        self.layers = Layers(visual.transformer.resblocks, causal=False)
        self.ln_post: nn.Module = visual.ln_post
        self.proj: nn.Parameter = visual.proj

    def forward(self, frames: Tensor, hooks: Hooks = PLAIN, flow: Flow | None = None) -> Tensor:
        """Features in the joint space, not normalised.

        Args:
            frames: ``float[B*T, 3, S, S]``, normalised pixels.
            flow: T and the frame mask; None for single images.

        Returns:
            ``float[B*T, E]``.
        """
        flow = Flow() if flow is None else flow
        return self.project(self.layers(self.embed(frames, hooks, flow), hooks, flow))

    def embed(self, frames: Tensor, hooks: Hooks, flow: Flow) -> Tensor:
        """The input of the first layer: ``float[B*T, 3, S, S] -> float[B*T, 1+N, D]``, or more tokens by the hooks."""
        x = self.conv1(frames).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        x = hooks.before_positions(x, flow) + self.positional_embedding.to(x.dtype)
        return self.ln_pre(hooks.after_positions(x, flow))

    def project(self, x: Tensor) -> Tensor:
        """Read-out tokens to features: ``float[B*T, D] -> float[B*T, E]``."""
        return self.ln_post(x) @ self.proj


class TextTower(nn.Module):
    """Token ids to features.

    Args:
        text: open_clip's ``CLIP`` (text parts on its root) or ``TextTransformer``, causal, read out at the largest id.
    """

    def __init__(self, text: Any) -> None:
        super().__init__()
        self.token_embedding: nn.Embedding = text.token_embedding
        self.positional_embedding: nn.Parameter = text.positional_embedding
        self.layers = Layers(text.transformer.resblocks, causal=True)
        self.ln_final: nn.Module = text.ln_final
        self.text_projection: nn.Parameter = text.text_projection

    def forward(self, tokens: Tensor, hooks: Hooks = PLAIN) -> Tensor:
        """Features in the joint space, not normalised.

        Args:
            tokens: ``int64[B, L]``, L at most the context length; the end token is the largest id.

        Returns:
            ``float[B, E]``.
        """
        ends = tokens.argmax(dim=-1)
        if not hooks.whole_text and not tokens.is_meta:
            # Causal attention: nothing up to an end token sees the columns behind it.
            tokens = tokens[:, : int(ends.max()) + 1]
        flow = Flow(readout=ends)
        x = hooks.before_positions(self.token_embedding(tokens), flow)
        x = hooks.after_positions(x + self.positional_embedding[: x.shape[1]], flow)
        return self.ln_final(self.layers(x, hooks, flow)) @ self.text_projection
