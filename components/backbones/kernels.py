"""Parts of the towers that are computed differently on a GPU.

On a CPU, :func:`layer_norm` and :func:`embed_patches` call the module, so results there keep their bits. The times
below are of prototypes of each change by itself, on one NVIDIA H200 with torch 2.11 (CUDA 13.0), random weights and 12
frames of 224 pixels, training in bfloat16. Single times vary by 7 %.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def layer_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(x)``. On a GPU, :func:`frozen_layer_norm` computes it where the weight is frozen.

    Args:
        norm: open_clip's layer norm, or an identity where the model has none.
        x: ``float[..., D]``.

    Returns:
        ``float[..., D]`` in the type of ``x``.
    """
    if x.is_cuda and isinstance(norm, nn.LayerNorm) and not norm.weight.requires_grad:
        return frozen_layer_norm(norm, x)
    y: Tensor = norm(x)
    return y


def frozen_layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm with a frozen weight, in the type of ``x``. A bias that trains is added afterwards.

    *Bias apart.* Where the weight is frozen and the bias trains, the CUDA kernel of PyTorch's backward pass fails above
    65,536 rows (frames times tokens): it sizes a buffer by the weight's gradient, which is not computed, and raises
    "NativeLayerNormBackward0 returned an invalid gradient at index 2". MV-Adapter's recipe for ViT-B/16 has 75,648
    rows. An addition after the norm takes another kernel for the bias's gradient.

    *The type of x.* Autocast runs layer norms in float32, so a bfloat16 residual stream is cast to float32 before each
    norm and back after it. The CUDA kernel computes mean and variance in float32 for bfloat16 inputs too. Without the
    casts a step takes 14 % less time with VoP (ViT-B/32, 32 videos) and 9 % less with MV-Adapter (128 videos), and
    14 % less memory. The relative error of the gradient against float32 does not grow beyond what bfloat16 costs
    (VoP 4.1e-2 to 3.6e-2, MV-Adapter 2.1e-2 to 2.5e-2). The text tower's stream is float32 and stays so.

    Args:
        norm: The layer norm. Its weight must be frozen.
        x: ``float[..., D]``.

    Returns:
        ``float[..., D]`` in the type of ``x``.
    """
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    trained = norm.bias.requires_grad
    with torch.autocast(x.device.type, enabled=False):
        y = F.layer_norm(x, norm.normalized_shape, weight, None if trained else bias, norm.eps)
        return y + bias if trained else y


def embed_patches(conv: nn.Conv2d, frames: Tensor) -> Tensor:
    """The patch embedding. On a GPU, :func:`patch_product` computes it.

    A CPU keeps the convolution, because the product has other bits there: up to 2e-6 apart at the embedded model's
    sizes and 8e-6 at ViT-B/32's, for values around 1.

    Args:
        conv: Its kernel size equals its stride, and it has no padding.
        frames: ``float[n, 3, S, S]``.

    Returns:
        ``float[n, N, D]``, patches row by row.
    """
    if frames.is_cuda:
        return patch_product(conv, frames)
    x: Tensor = conv(frames)
    return x.flatten(2).transpose(1, 2)


def patch_product(conv: nn.Conv2d, frames: Tensor) -> Tensor:
    """The patch embedding as one matrix product.

    Patches do not overlap, so the convolution is a product of the flattened patches with the flattened kernel. It takes
    10 % off a step with VoP (ViT-B/32, 32 videos) and 8 % with MV-Adapter (128 videos), where the convolution was the
    slowest single kernel. The gradient's error against float32 stays the same. The towers then hold no convolution:
    cuDNN has a separate switch for TF32, and need not sum a weight gradient in the same order in every run.

    Args:
        conv: As in :func:`embed_patches`.
        frames: ``float[n, 3, S, S]``. Pixels after the last whole patch are left out, as the convolution does.

    Returns:
        ``float[n, N, D]``, patches row by row.
    """
    height, width = conv.kernel_size
    rows, columns = frames.shape[-2] // height, frames.shape[-1] // width
    grid = frames[..., : rows * height, : columns * width].unflatten(-1, (columns, width))
    grid = grid.unflatten(-3, (rows, height)).permute(0, 2, 4, 1, 3, 5)
    kind = frames.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else frames.dtype
    # Casting and reordering take one pass over memory.
    patches = grid.to(dtype, memory_format=torch.contiguous_format).reshape(len(frames), rows * columns, -1)
    return F.linear(patches, conv.weight.flatten(1), conv.bias)
