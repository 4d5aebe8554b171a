"""Model FLOPs utilisation (MFU): the arithmetic that a training needs, over what the GPUs could do in that time.

FLOPs are those of matrix products, convolutions and attention in the forward and backward pass, as PyTorch's FLOP
counter sees them. Layers that are computed twice to save memory count once. A card's limit is measured, since makers
state clock rates that cards do not hold.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from components.methods.base import Method
from components.precision import Precision, autocast
from components.training.settings import TrainingSettings
from components.training.step import StepGradients

# Rows and columns of the measured matrix product. Smaller ones do not fill a large card.
SIZE = 8192
ROUNDS = 5


@dataclass(frozen=True)
class Utilisation:
    """What turns videos per second into MFU.

    Attributes:
        flops_per_video: FLOPs of a training step per video, with its captions.
        limit: FLOPs per second of one GPU.
    """

    flops_per_video: int
    limit: float

    def of(self, videos_per_second: float, world: int) -> float:
        """The MFU of ``world`` GPUs, between 0 and 1."""
        return self.flops_per_video * videos_per_second / (self.limit * world)


def measure(method: Method, settings: TrainingSettings) -> Utilisation | None:
    """The utilisation of this process's GPU, or None on a CPU. Takes a fraction of a second."""
    device = next(method.parameters()).device
    if device.type != "cuda":
        return None
    return Utilisation(flops_per_video(method, settings), limit(device, settings.precision))


def flops_per_video(method: Method, settings: TrainingSettings) -> int:
    """FLOPs of the forward and backward pass of one video with its captions, each of the full number of tokens."""
    plain = replace(settings, cache_frozen=False, checkpoint_activations=False)
    with FlopCounterMode(display=False) as counter:
        StepGradients(method, plain, seed=0).probe(1, settings.captions_per_video)
    return int(counter.get_total_flops())


def limit(device: torch.device, precision: Precision) -> float:
    """FLOPs per second of a large matrix product on a GPU. The caller sets :func:`components.precision.numerics`."""
    left = torch.randn(SIZE, SIZE, device=device)
    seconds = []
    with autocast(precision, device):
        # Converted to bfloat16 outside of the measured time.
        left = left.bfloat16() if precision == "bfloat16" else left
        for _ in range(ROUNDS + 1):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            left @ left
            stop.record()
            stop.synchronize()
            seconds.append(start.elapsed_time(stop) / 1e3)
    return 2 * SIZE**3 / statistics.median(seconds[1:])
