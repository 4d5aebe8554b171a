"""The two towers, layer by layer over a family's weights. A method acts through their hooks.

:mod:`components.backbones.hooks` describes the hooks and what passes between them.

Two shortcuts change nothing but the time. Only the read-out tokens leave the last layer, so that layer computes only
these, unless the hooks need the others (``whole_last_layer``) or the tower pools all tokens. Texts of a causal tower
are cut to the longest one of the batch, unless the hooks read beyond the end token (``whole_text``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from components.backbones.blocks import Rotary
from components.backbones.hooks import PLAIN, Chain, Flow, Hooks, Part, all_valid
from components.backbones.host import on_host
from components.backbones.kernels import embed_patches, layer_norm

__all__ = [
    "PLAIN",
    "Chain",
    "Flow",
    "Hooks",
    "Layers",
    "Part",
    "TextReadout",
    "TextTower",
    "VisionTower",
    "activate",
    "all_valid",
    "checkpointed",
    "pick",
    "quick_gelu",
]

TextReadout = Literal["argmax", "eos", "last"]


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``, in fewer passes over memory."""
    return F.silu(x * 1.702) * (1 / 1.702)


class Layers(nn.Module):
    """A stack of residual attention blocks.

    Args:
        blocks: open_clip's blocks, or those of :mod:`components.backbones.blocks`.
        causal: Whether a token attends only to itself and to the tokens before it.
        rotary: Rotates queries and keys by their place in the picture.

    Attributes:
        whole: Whether the tower pools all tokens, so that the last layer computes and returns all of them.
        checkpointed: Whether a layer keeps only its input and is computed again in the backward pass
            (:func:`checkpointed` sets this).
    """

    def __init__(self, blocks: nn.ModuleList, causal: bool, rotary: Rotary | None = None) -> None:
        super().__init__()
        self.blocks = blocks
        self.causal = causal
        self.rotary = rotary
        self.whole = False
        self.checkpointed = False

    def forward(self, x: Tensor, hooks: Hooks, flow: Flow, start: int = 0) -> Tensor:
        """The read-out tokens of every sequence after the last layer, or all of the backbone's tokens.

        Args:
            x: ``float[n, L, D]``, the input of layer ``start``.
            hooks: The method's hooks.
            flow: The layout of ``x``.
            start: The number of layers that ``x`` has already passed.

        Returns:
            ``float[n, D]``, one row per frame or text, also in a joint layout; with ``whole``,
            ``float[n, prefix+N, D]``.
        """
        x = self.through(x, hooks, flow, range(start, len(self.blocks)))
        if self.whole:
            return flow.own_tokens(x)
        return (x if flow.pooled_only else pick(x, flow.readout)).flatten(0, 1)

    def through(self, x: Tensor, hooks: Hooks, flow: Flow, layers: range) -> Tensor:
        """The output of the last of ``layers`` for the input of the first: ``float[n, L, D]``."""
        run = self._checkpointed_layer if self.checkpointed and torch.is_grad_enabled() else self._hooked_layer
        for i in layers:
            x = run(i, x, hooks, flow)
        return x

    def _hooked_layer(self, i: int, x: Tensor, hooks: Hooks, flow: Flow) -> Tensor:
        """Layer ``i`` with the hooks before and after it."""
        pooled_only = i == len(self.blocks) - 1 and not (self.whole or hooks.whole_last_layer)
        x = hooks.before_layer(i, x, flow)
        x = self._layer(i, self.blocks[i], x, hooks, flow, pooled_only)
        return hooks.after_layer(i, x, flow)

    def _checkpointed_layer(self, i: int, x: Tensor, hooks: Hooks, flow: Flow) -> Tensor:
        """:meth:`_hooked_layer` with activation checkpointing."""
        # Hooks write into the flow, so each of the two passes starts from a copy of the layout before this layer.
        before, after = replace(flow), []

        def run(x: Tensor) -> Tensor:
            after.append(replace(before))
            return self._hooked_layer(i, x, hooks, after[-1])

        y: Tensor = checkpoint(run, x, use_reentrant=False)
        vars(flow).update(vars(after[0]))
        return y

    def _layer(self, i: int, block: Any, x: Tensor, hooks: Hooks, flow: Flow, pooled_only: bool) -> Tensor:
        h = layer_norm(block.ln_1, x)
        qkv = hooks.project(i, "qkv", h, F.linear(h, block.attn.in_proj_weight, block.attn.in_proj_bias), flow)
        o = self._attend(qkv, block.attn.num_heads, flow, pooled_only)
        if pooled_only:
            x, h, flow.pooled_only = pick(x, flow.readout), pick(h, flow.readout), True
        o = hooks.after_heads(i, qkv, o, flow)
        a = hooks.project(i, "out", o, block.attn.out_proj(o), flow)
        x = x + block.ls_1(hooks.after_attention(i, x, h, a, flow))
        x = hooks.before_mlp(i, x, qkv, flow)
        h = layer_norm(block.ln_2, x)
        u = activate(block.mlp.gelu, hooks.project(i, "fc", h, block.mlp.c_fc(h), flow))
        u = hooks.after_activation(i, u, flow)
        m = hooks.project(i, "proj", u, block.mlp.c_proj(u), flow)
        return x + block.ls_2(hooks.after_mlp(i, x, h, m, flow))

    def _attend(self, qkv: Tensor, heads: int, flow: Flow, pooled_only: bool) -> Tensor:
        n, length, width = qkv.shape
        q, k, v = qkv.view(n, length, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary is not None:
            q, k = self.rotary(q, k, flow)
        mask, causal = flow.attention, self.causal
        if pooled_only:
            mask = self._row_mask(length, flow, qkv.device)
            q, causal = pick(q.transpose(1, 2), flow.readout).transpose(1, 2), False
        causal = causal and mask is None
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return o.transpose(1, 2).reshape(n, -1, width // 3)

    def _row_mask(self, length: int, flow: Flow, device: torch.device) -> Tensor | None:
        """The mask of only the read-out rows: ``[n or 1, heads or 1, R, L]``."""
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
    """Turns on activation checkpointing in the towers of ``module`` for forward passes inside the block."""
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
    """``act(x)``, where :func:`quick_gelu` computes open_clip's QuickGELU."""
    return quick_gelu(x) if isinstance(act, QuickGELU) else act(x)


def pick(x: Tensor, columns: Tensor | None) -> Tensor:
    """The ``columns`` of each sequence: ``[n, L, ...] -> [n, R, ...]``.

    Args:
        x: Sequences of L tokens.
        columns: ``int64[n]`` or ``int64[n, R]``. None picks the first column.
    """
    if columns is None:
        return x[:, :1]
    columns = columns.view(x.shape[0], -1)
    return x[torch.arange(x.shape[0], device=x.device)[:, None], columns]


class VisionTower(nn.Module):
    """Frames to features. A family (:mod:`components.backbones.families`) gives the parts.

    Args:
        conv1: The patch embedding: a convolution, or another module ``[n, 3, S, S] -> [n, N, D]``.
        class_embedding: ``float[D]``, the class token; None if there is none.
        positional_embedding: ``float[1+N, D]``, or ``float[N, D]`` where the class token has no position or is absent.
        ln_pre: The norm before the first layer, or an identity.
        layers: The blocks.
        ln_post: The norm after the last layer.
        image_size: S, in pixels.
        patch_size: The side of a patch, in pixels.
        proj: ``float[D, E]``, or a module, or None if features leave as they are.
        pool: Sums a frame's tokens up: ``[n, prefix+N, D] -> [n, D]``. None reads the class token.
    """

    def __init__(
        self,
        *,
        conv1: nn.Module,
        class_embedding: nn.Parameter | None,
        positional_embedding: nn.Parameter,
        ln_pre: nn.Module,
        layers: Layers,
        ln_post: nn.Module,
        image_size: int,
        patch_size: int,
        proj: nn.Parameter | nn.Linear | None,
        pool: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = conv1
        self.class_embedding = class_embedding
        self.positional_embedding = positional_embedding
        self.ln_pre = ln_pre
        self.layers = layers
        self.ln_post = ln_post
        self.pool = pool
        self.proj = proj
        self.image_size, self.patch_size = image_size, patch_size
        self.prefix = 0 if class_embedding is None else 1
        layers.whole = pool is not None

    @property
    def embed_dim(self) -> int:
        """E, the width of the joint space."""
        if self.proj is None:
            return self.positional_embedding.shape[1]
        return int(self.proj.out_features) if isinstance(self.proj, nn.Linear) else self.proj.shape[1]

    def forward(self, frames: Tensor, hooks: Hooks = PLAIN, flow: Flow | None = None) -> Tensor:
        """Features in the joint space, not normalised.

        Args:
            frames: ``float[B*T, 3, S, S]``, normalised pixels.
            hooks: The method's hooks.
            flow: T and the frame mask. None is for single images.

        Returns:
            ``float[B*T, E]``.
        """
        flow = Flow() if flow is None else flow
        return self.project(self.layers(self.embed(frames, hooks, flow), hooks, flow))

    def embed(self, frames: Tensor, hooks: Hooks, flow: Flow) -> Tensor:
        """The input of the first layer: ``float[B*T, 3, S, S] -> float[B*T, prefix+N, D]``. Hooks may add tokens."""
        flow.prefix = self.prefix
        frames = hooks.before_patches(frames, flow)
        x = embed_patches(self.conv1, frames) if isinstance(self.conv1, nn.Conv2d) else self.conv1(frames)
        positions: Tensor = self.positional_embedding
        if self.class_embedding is not None:
            if x.shape[1] == len(positions):
                positions = F.pad(positions, (0, 0, 1, 0))
            x = torch.cat([self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        x = hooks.before_positions(x, flow) + positions.to(x.dtype)
        return layer_norm(self.ln_pre, hooks.after_positions(x, flow))

    def project(self, x: Tensor) -> Tensor:
        """What the layers return, to features: ``float[B*T, D]`` or ``float[B*T, prefix+N, D] -> float[B*T, E]``."""
        x = layer_norm(self.ln_post, x)
        x = x if self.pool is None else self.pool(x)
        return projected(x, self.proj)


class TextTower(nn.Module):
    """Token ids to features.

    Args:
        text: open_clip's ``CLIP`` (which holds the text parts itself) or ``TextTransformer``.
        readout: The token that is read out: the ``argmax`` of the ids, the first ``eos``, or the ``last`` column.
        eos: The end token's id, for ``eos``.
        causal: Whether a token attends only to itself and to the tokens before it. If not, padding is attended to, so
            texts fill the context.
        prefix: 1 if every text begins with a start token, 0 if not.
    """

    def __init__(self, text: Any, readout: TextReadout, eos: int, causal: bool, prefix: int) -> None:
        super().__init__()
        self.token_embedding: nn.Embedding = text.token_embedding
        self.positional_embedding: nn.Parameter = text.positional_embedding
        self.layers = Layers(text.transformer.resblocks, causal=causal)
        self.ln_final: nn.Module = text.ln_final
        self.text_projection: nn.Parameter | nn.Linear | None = text.text_projection
        self.readout, self.eos, self.prefix = readout, eos, prefix

    def forward(self, tokens: Tensor, hooks: Hooks = PLAIN) -> Tensor:
        """Features in the joint space, not normalised.

        Args:
            tokens: ``int64[B, L]``, L at most the context length.
            hooks: The method's hooks.

        Returns:
            ``float[B, E]``.
        """
        x, flow = self._embed(tokens, hooks)
        return projected(layer_norm(self.ln_final, self.layers(x, hooks, flow)), self.text_projection)

    def every_token(self, tokens: Tensor, hooks: Hooks) -> Tensor:
        """The features of all tokens, not only of the one that is read out.

        Args:
            tokens: ``int64[B, L]``.
            hooks: The method's hooks, with ``whole_last_layer``.

        Returns:
            ``float[B, L', E]`` for the first L' columns. Padding after the batch's longest text may be left out.
        """
        x, flow = self._embed(tokens, hooks)
        x = flow.own_tokens(self.layers.through(x, hooks, flow, range(len(self.layers.blocks))))
        return projected(layer_norm(self.ln_final, x), self.text_projection)

    def _embed(self, tokens: Tensor, hooks: Hooks) -> tuple[Tensor, Flow]:
        """The input of the first layer, and its layout."""
        columns = self.columns(tokens)
        if self.layers.causal and not hooks.whole_text and not tokens.is_meta:
            # No token up to the one that is read out sees the columns after it.
            tokens = tokens[:, : int(self.columns(on_host(tokens)).max()) + 1]
        flow = Flow(readout=columns, prefix=self.prefix)
        x = hooks.before_positions(self.token_embedding(tokens), flow)
        return hooks.after_positions(x + self.positional_embedding[: x.shape[1]], flow), flow

    def columns(self, tokens: Tensor) -> Tensor:
        """The column that is read out: ``int64[B, L] -> int64[B]``."""
        if self.readout == "last":
            return tokens.new_full((len(tokens),), tokens.shape[1] - 1)
        return (tokens if self.readout == "argmax" else (tokens == self.eos).int()).argmax(dim=-1)


def projected(x: Tensor, proj: nn.Parameter | nn.Linear | None) -> Tensor:
    """The joint space's features: ``float[..., D] -> float[..., E]``."""
    if proj is None:
        return x
    y: Tensor = proj(x) if isinstance(proj, nn.Module) else x @ proj
    return y
