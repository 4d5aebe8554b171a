"""The frozen layers below the first trained one, computed once per video.

If training starts at a deeper layer (an adapter in the last layers, a head on frame features), the input of that layer
is the same in every epoch. A trial pass over one video finds the layer: the last one whose input has no gradient and
still has CLIP's layout, one row per frame. Each video passes through the frozen layers alone. So its activations are
the same bits whatever else is in the batch, and whether or not the cache had room for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.backbones.towers import Flow
from components.methods.base import Method


class FrozenLayers:
    """A method's frame features, from cached activations.

    Args:
        method: The method. Its trainable parameters require gradients already.
        cache_mib: Memory for activations. When it is full, nothing is evicted and the rest is computed each time.
    """

    def __init__(self, method: Method, cache_mib: int) -> None:
        self.method = method
        self._depth = first_trained_layer(method)
        self._free_bytes = cache_mib * 2**20
        self._cache: dict[str, Tensor] = {}

    def frame_features(self, ids: Sequence[str], frames: Tensor, mask: Tensor) -> Tensor:
        """:meth:`Method.frame_features` of videos with frames that never change.

        Args:
            ids: B video ids.
            frames: float[B, T, 3, S, S], normalised pixels.
            mask: bool[B, T], true where a frame is real.

        Returns:
            float[B, T, E].
        """
        if self._depth == 0:
            return self.method.frame_features(frames, mask)
        rows = [self._below(name, clip, real) for name, clip, real in zip(ids, frames, mask, strict=True)]
        vision, hooks = self.method.backbone.vision, self.method.vision_hooks()
        flow = Flow(mask.shape[1], self.method.shown(mask))
        x = torch.cat(rows)
        if self._depth < self.method.spec.vision_layers:
            x = vision.layers(x, hooks, flow, self._depth)
        return vision.project(x).view(*mask.shape, -1)

    @torch.no_grad()
    def _below(self, name: str, clip: Tensor, mask: Tensor) -> Tensor:
        """One video's input to the first trained layer: float[T, L, D], or float[T, D] after the last layer."""
        if name in self._cache:
            return self._cache[name]
        vision, hooks = self.method.backbone.vision, self.method.vision_hooks()
        flow = Flow(len(mask), self.method.shown(mask[None]))
        x = vision.embed(clip, hooks, flow)
        if self._depth == self.method.spec.vision_layers:
            x = vision.layers(x, hooks, flow)
        else:
            x = vision.layers.through(x, hooks, flow, range(self._depth))
        if x.nbytes <= self._free_bytes:
            self._free_bytes -= x.nbytes
            self._cache[name] = x
        return x


@torch.enable_grad()
def first_trained_layer(method: Method) -> int:
    """The number of vision layers that a training can skip; all of them if nothing before the projection trains."""
    spec, device = method.spec, method.backbone.logit_scale.device
    frames = torch.zeros(method.frames, 3, spec.image_size, spec.image_size, device=device)
    flow = Flow(method.frames, torch.ones(1, method.frames, dtype=torch.bool, device=device))
    vision, hooks = method.backbone.vision, method.vision_hooks()
    x, passed = vision.embed(frames, hooks, flow), 0
    while not x.requires_grad and flow.own is flow.readout is flow.attention is None and not flow.joint:
        if passed == spec.vision_layers:
            return passed
        x = vision.layers.through(x, hooks, flow, range(passed, passed + 1))
        passed += 1
    return max(0, passed - 1)
