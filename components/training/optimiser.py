"""AdamW over a method's trainable parameters: which weights decay, and the learning rate of each step."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import nn

from components.training.settings import Decay

# CLIP's values for vision transformers (appendix F), which the papers' code uses too. A smaller epsilon would turn the
# rounding noise of a gradient that is zero in theory (a key's bias) into full steps.
BETAS = (0.9, 0.98)
EPSILON = 1e-6

# Matrices by shape, but not weights of a linear map, so decay towards zero has no meaning for them.
UNDECAYED = re.compile(r"prompt|position|token|embedding|norm|ln_|bias|factor", re.IGNORECASE)


# In a model of several methods, a parameter's name begins with that of its method, which says nothing about it.
PART = re.compile(r"parts\.[^.]+\.")


def decays(name: str, parameter: nn.Parameter, rule: Decay = "matrices") -> bool:
    """Whether weight decay applies to a parameter.

    Args:
        name: Its name.
        parameter: The parameter.
        rule: ``matrices``: it has two or more dimensions, and its name does not match ``UNDECAYED``. Norms, biases,
            prompts, positions, tokens, embeddings and shared factors do not decay. ``all_but_biases``: it is no bias
            (CLIP4Clip's and MV-Adapter's code). ``all``: always (VoP's paper names no exception).
    """
    name = PART.sub("", name, count=1)
    if rule == "matrices":
        return parameter.ndim >= 2 and UNDECAYED.search(name) is None
    return rule == "all" or not name.endswith("bias")


def build_optimiser(
    parameters: Mapping[str, nn.Parameter],
    rates: Mapping[str, float],
    weight_decay: float,
    decay: Decay = "matrices",
) -> torch.optim.AdamW:
    """AdamW with float32 moments and a group per learning rate, with and without decay.

    Args:
        parameters: Parameters by name. Their order is kept within a group.
        rates: Peak learning rates by name. Each group keeps its rate as ``peak_lr``. The highest rate comes first.
        weight_decay: Weight decay of the parameters that decay.
        decay: Which ones do (:func:`decays`).
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault((rates[name], decays(name, parameter, decay)), []).append(parameter)
    chosen = [
        {"params": members, "lr": lr, "peak_lr": lr, "weight_decay": weight_decay if decayed else 0.0}
        for (lr, decayed), members in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]
    # One kernel for all parameters instead of several for each: 450 small tensors cost more to launch than to compute.
    fused = all(parameter.is_cuda for parameter in parameters.values())
    return torch.optim.AdamW(chosen, betas=BETAS, eps=EPSILON, fused=fused)


def lr_factor(step: int, total: int, warmup_share: float) -> float:
    """The factor on the learning rate at ``step`` (from 0) of ``total``: linear warm-up, then half a cosine.

    The first factor is above zero, and the last one is the smallest after the warm-up.
    """
    warmup = round(warmup_share * total)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
