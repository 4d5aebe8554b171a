"""AdamW over what a method trains: which weights decay, and the learning rate of each step."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import nn

# CLIP's own for vision transformers (appendix F), and those of the papers' code. A smaller epsilon would turn the
# rounding noise of a gradient that is zero in theory (a key's bias) into steps of full size.
BETAS = (0.9, 0.98)
EPSILON = 1e-6

# Matrices by shape, yet not weights of a linear map: pulling them to zero has no meaning.
UNDECAYED = re.compile(r"prompt|position|token|embedding|norm|ln_|bias|factor", re.IGNORECASE)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: only to tensors of two or more dimensions whose name is none of ``UNDECAYED``.

    Norms, biases, prompts, positions, tokens, embeddings and shared factors get none.
    """
    return parameter.ndim >= 2 and UNDECAYED.search(name) is None


def build_optimiser(
    parameters: Mapping[str, nn.Parameter], rates: Mapping[str, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW with float32 moments; a group per learning rate, with and without decay, in the order of ``parameters``.

    Args:
        parameters: name to parameter.
        rates: name to peak learning rate, kept in each group as ``peak_lr``; the highest rate's groups come first.
        weight_decay: of what :func:`decays`.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault((rates[name], decays(name, parameter)), []).append(parameter)
    chosen = [
        {"params": members, "lr": lr, "peak_lr": lr, "weight_decay": weight_decay if decayed else 0.0}
        for (lr, decayed), members in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]
    # One kernel for all parameters instead of several for each: 450 small tensors cost more to launch than to compute.
    fused = all(parameter.is_cuda for parameter in parameters.values())
    return torch.optim.AdamW(chosen, betas=BETAS, eps=EPSILON, fused=fused)


def lr_factor(step: int, total: int, warmup_share: float) -> float:
    """The share of the full learning rate at ``step`` (from 0) of ``total``: linear warm-up, then half a cosine.

    The first step already moves, and the last one is the smallest.
    """
    warmup = round(warmup_share * total)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
