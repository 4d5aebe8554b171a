"""Two trainings with one seed give equal bits on one device. The GPU's tests show for which methods it may be promised.

They run where there is a GPU. The CPU runs the same function for a few methods, so that it is known to work.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_backbone import TEXTS, WORDS, clips
from torch import Tensor
from torch.nn import functional as F
from variants import BACKBONE, TRAINED, make

from components.backbones.load import untrained
from components.methods.base import Method
from components.methods.build import build
from components.precision import Precision, autocast, numerics
from components.training.optimiser import build_optimiser

STEPS = 3
# At ViT-B/32's sizes other kernels run than at those of the tiny backbone.
LARGE = ("full", "bias", "mv_adapter", "vop", "vop_fc", "convpass", "st_adapter", "lora", "tempme")
VIDEOS, FRAMES = 16, 12

Inputs = tuple[Tensor, Tensor, Tensor]


def trained(method: Method, inputs: Inputs, precision: Precision, device: torch.device) -> dict[str, Tensor]:
    """The parameters after a few steps with one batch."""
    method = method.to(device).train()
    frames, mask, tokens = (tensor.to(device) for tensor in inputs)
    optimiser = build_optimiser(method.trainable(), method.learning_rates(), weight_decay=0.2)
    owner = torch.arange(len(frames), device=device)
    for _ in range(STEPS):
        torch.manual_seed(3)
        with numerics(precision), autocast(precision, device):
            video, text = method(frames, mask, tokens)
            F.cross_entropy(method.logit_scale * text.float() @ video.float().T, owner).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return {name: parameter.detach().cpu() for name, parameter in method.trainable().items()}


def check(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys() != set()
    assert all(bool(value.isfinite().all()) for value in first.values())
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def tiny(name: str, device: torch.device) -> dict[str, Tensor]:
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    return trained(make(name), inputs, "float32", device)


def large(name: str, precision: Precision, device: torch.device) -> dict[str, Tensor]:
    torch.manual_seed(0)
    backbone = untrained("ViT-B-32-quickgelu", Path())
    method = build(name, {"lr": 1e-4}, backbone, frames=FRAMES, words=WORDS)
    frames = torch.randint(0, 256, (VIDEOS, FRAMES, 3, 224, 224), dtype=torch.uint8)
    mask = torch.ones(VIDEOS, FRAMES, dtype=torch.bool)
    texts = backbone.tokenize([f"video {number}" for number in range(VIDEOS)], WORDS)
    return trained(method, (backbone.normalize(frames), mask, texts), precision, device)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["full", "mv_adapter", "vop_fc"])
def test_on_a_cpu(name: str) -> None:
    check(tiny(name, torch.device("cpu")), tiny(name, torch.device("cpu")))


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRAINED)
def test_on_a_gpu(name: str) -> None:
    check(tiny(name, torch.device("cuda")), tiny(name, torch.device("cuda")))


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRAINED)
def test_a_gpu_trains_what_a_cpu_trains(name: str) -> None:
    """Up to rounding, which three steps of Adam with gradients near zero enlarge."""
    on_gpu, on_cpu = tiny(name, torch.device("cuda")), tiny(name, torch.device("cpu"))
    for key, value in on_cpu.items():
        assert float((on_gpu[key] - value).abs().mean()) <= 1e-3, key


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LARGE)
def test_at_real_sizes(name: str, precision: Precision) -> None:
    gpu = torch.device("cuda")
    check(large(name, precision, gpu), large(name, precision, gpu))
