"""Prompts in a tower's sequences. They are inserted before a layer and replaced or removed before the next one.

VoP, VPT and CoOp use these hooks. :meth:`Flow.exchange` keeps their places, so several of them can act in one tower.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from components.backbones.hooks import Flow, Hooks


def normal_prompts(*shape: int, std: float) -> nn.Parameter | None:
    """Prompts drawn from N(0, std): ``float[shape]``, or None if a size is 0."""
    return nn.Parameter(torch.randn(shape) * std) if all(shape) else None


def repeated(prompts: Tensor, rows: int) -> Tensor:
    """The same prompts for every sequence: ``float[P, D] -> float[rows, P, D]``."""
    return prompts.expand(rows, -1, -1)


class FreshPrompts(Hooks):
    """Prompts after the first token, fresh in every layer that has some.

    Layer 0's prompts are inserted before the first layer norm and get no positions. The outputs at the places of
    prompts are discarded. A subclass gives the prompts of a layer.

    Args:
        layers: Numbers of the layers that have prompts.
    """

    adds_tokens = True

    def __init__(self, layers: Collection[int]) -> None:
        self.layers = frozenset(layers)

    def fresh(self, i: int, first: Tensor, flow: Flow) -> Tensor:
        """Layer ``i``'s prompts for frames or texts with these first tokens: ``float[n, D] -> float[n, P, D]``."""
        raise NotImplementedError

    def after_positions(self, x: Tensor, flow: Flow) -> Tensor:
        return self.exchange(0, x, flow)

    def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        return x if i == 0 else self.exchange(i, x, flow)

    def exchange(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        """Replaces the prompts of the layer before with those of layer ``i``."""
        return flow.exchange(x, self, self.fresh(i, flow.first_tokens(x), flow) if i in self.layers else None)


class LayerPrompts(FreshPrompts):
    """The same prompts for every sequence.

    Args:
        prompts: ``float[len(layers), P, D]``.
        layers: Numbers of the layers that have prompts.
    """

    def __init__(self, prompts: Tensor, layers: Sequence[int]) -> None:
        super().__init__(layers)
        self.rows = dict(zip(layers, prompts, strict=True))

    def fresh(self, i: int, first: Tensor, flow: Flow) -> Tensor:
        return repeated(self.rows[i], first.shape[0])


class KeptPrompts(Hooks):
    """Prompts after the first token that stay in the sequence through all layers (shallow prompting).

    Args:
        prompts: ``float[P, D]``.
        positions: Whether prompts are inserted before the position embedding is added. They then take places of the
            context.
    """

    adds_tokens = True

    def __init__(self, prompts: Tensor, *, positions: bool) -> None:
        self.prompts, self.positions = prompts, positions

    def before_positions(self, x: Tensor, flow: Flow) -> Tensor:
        return self._insert(x, flow) if self.positions else x

    def after_positions(self, x: Tensor, flow: Flow) -> Tensor:
        return x if self.positions else self._insert(x, flow)

    def _insert(self, x: Tensor, flow: Flow) -> Tensor:
        return flow.exchange(x, self, repeated(self.prompts, x.shape[0]))


class ReleasedText(Hooks):
    """``[SOS, prefix, ..., suffix, last column]`` in every layer, as in VoP's released inference code.

    Args:
        prompts: ``float[K_t, P_t, D_t]``, the prefix first.
        suffix: The number of prompts before the last column.
    """

    whole_text = True
    adds_tokens = True
    alone = "text_layout: released reads a column that it counts from the end of the text"

    def __init__(self, prompts: Tensor, suffix: int) -> None:
        self.prompts = prompts
        self.prefix, self.suffix = prompts.shape[1] - suffix, suffix

    def _insert(self, i: int, first: Tensor, middle: Tensor, last: Tensor) -> Tensor:
        fresh = repeated(self.prompts[i], first.shape[0]).to(first.dtype)
        return torch.cat([first, fresh[:, : self.prefix], middle, fresh[:, self.prefix :], last], dim=1)

    def before_positions(self, x: Tensor, flow: Flow) -> Tensor:
        total = x.shape[1] + self.prefix + self.suffix
        columns = torch.arange(total, device=x.device)
        flow.own = torch.cat([columns[:1], columns[1 + self.prefix : -1 - self.suffix], columns[-1:]])
        if flow.readout is not None:
            flow.readout = flow.readout + self.prefix + self.suffix
        return self._insert(0, x[:, :1], x[:, 1:-1], x[:, -1:])

    def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        if i == 0:
            return x
        return self._insert(i, x[:, :1], x[:, 1 + self.prefix : -1 - self.suffix], x[:, -1:])
