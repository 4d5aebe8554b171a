"""Activation checkpointing: the same embeddings and gradients for every method, and fewer tensors in memory."""

from __future__ import annotations

import pytest
import torch
import variants
from tiny_backbone import TEXTS, WORDS, clips
from torch import Tensor

from components.backbones.towers import Layers, checkpointed
from components.methods.base import Method


def embeddings_and_gradients(name: str, on: bool) -> tuple[list[Tensor], dict[str, Tensor | None], int]:
    """Both embeddings, the gradients by name, and the bytes that the graph holds after the forward pass."""
    method = variants.make(name)
    frames, mask = clips(variants.BACKBONE)
    tokens = method.backbone.tokenize(TEXTS, WORDS)
    held = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), checkpointed(method.backbone, on):
        video, text = method(frames, mask, tokens)
        forward = held
    # Random factors, so that every direction has its weight.
    (video * torch.randn(video.shape, generator=torch.Generator().manual_seed(3))).sum().add(
        (text * torch.randn(text.shape, generator=torch.Generator().manual_seed(4))).sum()
    ).backward()
    return [video.detach(), text.detach()], {key: p.grad for key, p in method.trainable().items()}, forward


# They train after the towers, which then keep nothing.
HEADS = ("late", "proj", "seq_transf")


@pytest.mark.parametrize("name", variants.TRAINED)
def test_every_method_has_the_same_gradients(name: str) -> None:
    plain, expected, kept = embeddings_and_gradients(name, on=False)
    again, found, kept_again = embeddings_and_gradients(name, on=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        other = found[key]
        assert (gradient is None) == (other is None)
        if gradient is not None and other is not None:
            torch.testing.assert_close(other, gradient, atol=1e-6, rtol=1e-5)
    assert name in HEADS or kept_again < kept


def test_only_within_the_block() -> None:
    method: Method = variants.make("bias")
    stacks = [part for part in method.backbone.modules() if isinstance(part, Layers)]
    assert len(stacks) == 2

    def fail() -> None:
        with checkpointed(method.backbone):
            assert all(stack.checkpointed for stack in stacks)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert not any(stack.checkpointed for stack in stacks)
