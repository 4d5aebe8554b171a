"""What the host knows of small tensors on a GPU: masks and token ids, which it made itself.

The towers ask whether a mask has padding and how long the longest text is. To read the answer from the GPU, the host
would wait until the GPU has done all work before, and could not launch more meanwhile.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# The host's copies by the tensor on a device, as long as that tensor is in use.
_COPIES = WeakTensorKeyDictionary()


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies ``tensor`` to ``device``. :func:`on_host` of the copy is ``tensor`` and does not wait."""
    copy = tensor.to(device, non_blocking=True)
    if copy is not tensor:
        _COPIES[copy] = on_host(tensor)
    return copy


def split(tensor: Tensor, sizes: list[int]) -> list[Tensor]:
    """``tensor.split(sizes)``. The host knows the parts if it knows the whole."""
    parts = list(tensor.split(sizes))
    if tensor in _COPIES:
        for part, copy in zip(parts, _COPIES[tensor].split(sizes), strict=True):
            _COPIES[part] = copy
    return parts


def on_host(tensor: Tensor) -> Tensor:
    """The tensor on the CPU: the host's copy if there is one, else read from the device."""
    if tensor.device.type == "cpu":
        return tensor
    copy: Tensor | None = _COPIES.get(tensor)
    return tensor.cpu() if copy is None else copy
