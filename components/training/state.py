"""The state of a training: parameters, optimiser, counters and the best epoch. A checkpoint holds all of it.

Everything else follows from the number of finished steps: the learning rate, the position in the data and every random
draw are functions of (seed, step, micro-batch). There is no gradient scaler to keep, because bfloat16 has float32's
range and needs none.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.processes import rank_and_world
from components.training.checkpoint import Checkpoints

logger = logging.getLogger(__name__)

PARTS = frozenset({"parameters", "optimiser", "progress", "best"})


@dataclass
class Progress:
    """The counters of a training.

    Attributes:
        step: Finished steps.
        loss_sum, loss_count: Sum and number of the losses since the last validation.
        seconds: Time spent in steps.
        wait_seconds: The part of ``seconds`` that was spent waiting for data.
        curve: One row per validation.
        best_epoch, best_score: The selected epoch and its score.
        logged: The last logged points, as step and metrics.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -math.inf
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)


class TrainingState:
    """What changes during a training.

    Args:
        parameters: The trainable parameters by name.
        optimiser: The optimiser over ``parameters``.
        checkpoints: Where to save and to resume from. None saves nothing.
    """

    def __init__(
        self, parameters: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer, checkpoints: Checkpoints | None
    ) -> None:
        self.parameters = parameters
        self.optimiser = optimiser
        self.checkpoints = checkpoints
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None

    def save(self) -> None:
        """Writes a checkpoint. Only rank 0 does."""
        if self.checkpoints is None or rank_and_world()[0] != 0:
            return
        state = {
            "parameters": _copy(self.parameters),
            "optimiser": self.optimiser.state_dict(),
            "progress": vars(self.progress),
            "best": self.best,
        }
        self.checkpoints.save(self.progress.step, state)

    def resume(self) -> bool:
        """Restores the newest checkpoint that rank 0 can read. Returns whether there was one."""
        if self.checkpoints is None:
            return False
        rank, world = rank_and_world()
        found = self.checkpoints.latest(self._check) if rank == 0 else None
        if world > 1:
            # All ranks must start from the same checkpoint, whatever a shared file system shows to each.
            chosen: list[Any] = [found[0] if found else None]
            dist.broadcast_object_list(chosen, src=0)
            if rank != 0 and chosen[0] is not None:
                found = chosen[0], self.checkpoints.load(chosen[0])
        if found is None:
            return False
        state = found[1]
        _restore(self.parameters, state["parameters"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])
        self.best = state["best"]
        return True

    def select(self, epoch: int, score: float) -> None:
        """Keeps the parameters of this epoch if its score beats all epochs before."""
        if score > self.progress.best_score:
            self.progress.best_score, self.progress.best_epoch = score, epoch
            self.best = _copy(self.parameters)

    def restore_best(self) -> int | None:
        """Sets the parameters to those of the selected epoch and returns its number; None if none was selected."""
        if self.best is None:
            return None
        _restore(self.parameters, self.best)
        return self.progress.best_epoch

    def _check(self, state: Mapping[str, Any]) -> None:
        check_state(state, self.parameters, self.optimiser, set(vars(self.progress)))


def check_state(
    state: Mapping[str, Any], parameters: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, progress: set[str]
) -> None:
    """Checks that a checkpoint belongs to a training of ``parameters``.

    Args:
        state: The loaded checkpoint.
        parameters: The trainable parameters by name.
        optimiser: The optimiser over ``parameters``.
        progress: Names of the counters.

    Raises:
        ValueError: A part, name, shape or dtype differs.
    """
    if state.keys() != PARTS or state["progress"].keys() != progress:
        raise ValueError(f"it holds {sorted(state)}")
    _check_tensors("parameters", state["parameters"], parameters)
    if state["best"] is not None:
        _check_tensors("best", state["best"], parameters)
    _check_optimiser(state["optimiser"], optimiser)


def _check_tensors(part: str, tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    found, expected = (
        {name: (tensor.shape, tensor.dtype) for name, tensor in group.items()} for group in (tensors, parameters)
    )
    if found != expected:
        differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ValueError(f"{part} differ in {', '.join(differing[:3])}")


def _check_optimiser(saved: Mapping[str, Any], optimiser: torch.optim.Optimizer) -> None:
    sizes = [len(group["params"]) for group in saved["param_groups"]]
    if sizes != [len(group["params"]) for group in optimiser.param_groups]:
        raise ValueError(f"the optimiser has groups of {sizes} parameters")
    for saved_group, group in zip(saved["param_groups"], optimiser.param_groups, strict=True):
        for number, parameter in zip(saved_group["params"], group["params"], strict=True):
            moments = saved["state"].get(number)
            # A parameter that has had no gradient yet has no moments.
            if moments and any(moments[name].shape != parameter.shape for name in ("exp_avg", "exp_avg_sq")):
                raise ValueError(f"the optimiser's moments of parameter {number} have another shape")


def _copy(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def _restore(parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(state[name])
