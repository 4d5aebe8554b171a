"""Hooks: shortcuts change no result, hooks compose, and the methods' operations can be written with them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_backbone import TEXTS, clips, make_backbone
from torch import Tensor

from components.backbones.clip import Backbone
from components.backbones.towers import PLAIN, Chain, Flow, Hooks, Part


@pytest.fixture
def backbone() -> Backbone:
    return make_backbone()


def near(a: Tensor, b: Tensor, atol: float = 1e-6) -> bool:
    return bool((a - b).abs().max() <= atol)


def test_shortcuts_change_nothing(backbone: Backbone) -> None:
    class Whole(Hooks):
        whole_last_layer = True
        whole_text = True

    frames = clips(backbone)[0].flatten(0, 1)
    tokens = backbone.tokenize(TEXTS, 20)
    assert near(backbone.vision(frames), backbone.vision(frames, Whole()))
    assert near(backbone.text(tokens), backbone.text(tokens, Whole()))


def test_an_extra_mask_holds_in_the_shortened_last_layer(backbone: Backbone) -> None:
    class Mask(Hooks):
        def __init__(self, whole: bool) -> None:
            self.whole_last_layer = whole

        def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
            # A token sees itself and the two tokens before it.
            distance = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
            flow.attention = ((distance >= 0) & (distance < 3))[None, None]
            return x

    tokens = backbone.tokenize(TEXTS, 20)
    assert near(backbone.text(tokens, Mask(False)), backbone.text(tokens, Mask(True)))
    assert not near(backbone.text(tokens, Mask(True)), backbone.text(tokens), 1e-4)


def test_low_rank_updates_equal_changed_weights(backbone: Backbone) -> None:
    # LoRA needs this: a hook can add to every linear map of a layer.
    torch.manual_seed(3)
    shapes = {"qkv": (96, 32), "out": (32, 32), "fc": (128, 32), "proj": (32, 128)}
    delta = {part: torch.randn(shape) * 0.05 for part, shape in shapes.items()}

    class Shift(Hooks):
        def project(self, i: int, part: Part, x: Tensor, y: Tensor, flow: Flow) -> Tensor:
            return y + x @ delta[part].T

    changed = copy.deepcopy(backbone)
    blocks: Any = changed.vision.layers.blocks
    for block in blocks:
        weights = (
            block.attn.in_proj_weight,
            block.attn.out_proj.weight,
            block.mlp.c_fc.weight,
            block.mlp.c_proj.weight,
        )
        for part, weight in zip(shapes, weights, strict=True):
            weight.data += delta[part]
    frames = clips(backbone)[0].flatten(0, 1)
    assert near(backbone.vision(frames, Shift()), changed.vision(frames), 1e-5)
    assert not near(backbone.vision(frames, Shift()), backbone.vision(frames), 1e-3)


class Joint(Hooks):
    """Runs some layers over all tokens of a video at once, with the keys of padding frames masked."""

    whole_last_layer = True

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        if i != self.first:
            return x
        assert flow.mask is not None
        flow.attention = flow.mask.repeat_interleave(x.shape[1], dim=1)[:, None, None]
        return x.reshape(flow.mask.shape[0], -1, x.shape[-1])

    def after_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        if i != self.last:
            return x
        assert flow.mask is not None
        return x.reshape(flow.mask.numel(), -1, x.shape[-1])


def test_joint_space_time_attention_fits(backbone: Backbone) -> None:
    frames, mask = clips(backbone)
    hooks = Joint(1, 2)
    one = frames[:, :1]
    single = backbone.vision(one.flatten(0, 1), hooks, Flow(frames=1, mask=mask[:, :1]))
    assert near(single, backbone.vision(one.flatten(0, 1)))
    joint = backbone.vision(frames.flatten(0, 1), hooks, Flow(frames=5, mask=mask)).view(4, 5, -1)
    assert not near(joint[:, 0], single, 1e-3)
    garbage = torch.where(mask[..., None, None, None], frames, torch.randn_like(frames) * 9)
    again = backbone.vision(garbage.flatten(0, 1), hooks, Flow(frames=5, mask=mask)).view(4, 5, -1)
    assert near(joint[mask], again[mask])


def test_chained_hooks_act_in_order_and_unwind_in_reverse(backbone: Backbone) -> None:
    calls: list[str] = []

    class Trace(Hooks):
        def __init__(self, name: str) -> None:
            self.name = name

        def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
            calls.append(f"{self.name}>{i}")
            return x

        def after_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
            calls.append(f"{self.name}<{i}")
            return x

    frames = clips(backbone)[0].flatten(0, 1)
    out = backbone.vision(frames, Chain([Trace("a"), Trace("b"), PLAIN]))
    assert near(out, backbone.vision(frames))
    assert calls == [call for i in range(3) for call in (f"a>{i}", f"b>{i}", f"b<{i}", f"a<{i}")]


def test_no_gradient_is_kept_below_the_first_trainable_part(backbone: Backbone) -> None:
    seen = {}

    class Spy(Hooks):
        def __init__(self) -> None:
            self.shift = torch.zeros(32, requires_grad=True)

        def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
            seen[i] = m.requires_grad
            return m + self.shift if i == 1 else m

    backbone.vision(clips(backbone)[0].flatten(0, 1), Spy())
    assert seen == {0: False, 1: False, 2: True}
