"""What arithmetic rounds to: every precision sets matrix products and convolutions explicitly, and restores them.

By default PyTorch lets cuDNN use TF32 for convolutions but not cuBLAS for matrix products, so "float32" would mean
neither. Convolutions are also made deterministic: cuDNN's fastest gradients add in an order that changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from components.errors import ConfigError

Precision = Literal["float32", "tf32", "bfloat16"]


def check_precision(name: Precision, device: torch.device, where: str) -> None:
    """Whether ``device`` computes in this precision.

    Args:
        name: The precision.
        device: Where the towers run.
        where: The setting's key, for the message.

    Raises:
        ConfigError: TF32 without a GPU that has it, or bfloat16 on a GPU without it.
    """
    if device.type != "cuda":
        if name == "tf32":
            raise ConfigError(
                "only NVIDIA GPUs compute in TF32", where=where, found=name, expected="float32 or bfloat16 on a CPU"
            )
        return
    major, minor = torch.cuda.get_device_capability(device)
    if name != "float32" and major < 8:
        raise ConfigError(
            f"{torch.cuda.get_device_name(device)} does not compute in this precision",
            where=where,
            found=name,
            expected=f"float32 (compute capability 8.0 is needed, the card has {major}.{minor})",
        )


@contextlib.contextmanager
def numerics(name: Precision) -> Iterator[None]:
    """Sets what float32 operands round to on a GPU, for forward and backward passes within the block."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
    matmul.allow_tf32 = cudnn.allow_tf32 = name == "tf32"
    cudnn.deterministic = True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before


def autocast(name: Precision, device: torch.device) -> torch.autocast:
    """Runs the towers of a forward pass in bfloat16 where that is the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16")
