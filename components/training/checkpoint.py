"""Checkpoints that are never half there: put in place at once, the last ones kept, damaged ones passed over.

One holds the whole state of a training: trainable parameters, AdamW's moments and step counts, the number of finished
steps, the running loss, the curve, and the selected epoch with its parameters. The rest follows from the number of
steps: the learning rate, the position in the data and every random draw are functions of (seed, step, slice). There is
no scaler to keep, since bfloat16 has float32's range and needs none.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from components import storage
from components.errors import TrainingError

logger = logging.getLogger(__name__)

PARTS = frozenset({"parameters", "optimiser", "progress", "best"})
_NAME = re.compile(r"step-(\d{9})\.pt")
_DIGEST_BYTES = hashlib.sha256().digest_size


class Checkpoints:
    """The checkpoints of one training in one folder, by number of finished steps.

    Args:
        folder: a path or URI that every process of the training can read; made on the first save.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: storage.Location, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes ``state`` (tensors, numbers, strings, lists, dicts) so that a reader sees all of it or nothing.

        Those of later steps go: a training that saves step 10 has passed over a damaged one of step 20.

        Raises:
            TrainingError: the storage refuses.
        """
        content = io.BytesIO()
        torch.save(dict(state), content)
        # PyTorch itself would take changed bytes for numbers.
        content.write(hashlib.sha256(content.getbuffer()).digest())
        try:
            storage.write_bytes(self.path(step), content.getvalue())
            others = [other for other in self.steps() if other != step]
            older = [other for other in others if other < step]
            for other in {*others} - {*older[: self.keep - 1]}:
                files, path = storage.filesystem(self.path(other))
                files.delete_file(path)
        except OSError as error:
            raise TrainingError("checkpoint cannot be written", where=self.path(step), found=str(error)) from error

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, newest first."""
        found = (_NAME.fullmatch(name) for name in storage.list_files(self.folder))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def latest(self, check: Callable[[dict[str, Any]], None] | None = None) -> tuple[int, dict[str, Any]] | None:
        """The newest usable checkpoint and its step; a damaged one costs a warning and the steps since the last.

        Args:
            check: raises ValueError if a state does not belong to this training.
        """
        for step in self.steps():
            try:
                state = self.load(step)
                if check is not None:
                    check(state)
            except Exception as error:  # whatever the damaged bytes lead to
                logger.warning("checkpoint %s is damaged (%s), trying the one before", self.path(step), error)
            else:
                return step, state
        return None

    def load(self, step: int) -> dict[str, Any]:
        """The state saved after ``step`` steps, on the CPU.

        Raises:
            ValueError: the file is damaged.
            DataError: it cannot be read.
        """
        content = memoryview(storage.read_bytes(self.path(step)))
        body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if not body or hashlib.sha256(body).digest() != digest:
            raise ValueError(f"the checksum of {len(content)} bytes is wrong")
        state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        return state

    def clear(self) -> None:
        """Deletes the folder."""
        storage.delete_folder(self.folder)

    def path(self, step: int) -> str:
        """Where the checkpoint of ``step`` lies."""
        return storage.join(self.folder, f"step-{step:09d}.pt")


def check_state(
    state: Mapping[str, Any], parameters: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, progress: set[str]
) -> None:
    """Whether a checkpoint belongs to a training of ``parameters``.

    Args:
        state: as loaded.
        parameters: name to trainable parameter.
        optimiser: over ``parameters``.
        progress: names of the counters.

    Raises:
        ValueError: a part, name, shape or dtype differs.
    """
    if state.keys() != PARTS or state["progress"].keys() != progress:
        raise ValueError(f"it holds {sorted(state)}")
    expected = {name: (parameter.shape, parameter.dtype) for name, parameter in parameters.items()}
    for part in ("parameters", "best"):
        if part == "best" and state[part] is None:
            continue
        found = {name: (tensor.shape, tensor.dtype) for name, tensor in state[part].items()}
        if found != expected:
            differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            raise ValueError(f"{part} differ in {', '.join(differing[:3])}")
    saved = state["optimiser"]
    sizes = [len(group["params"]) for group in saved["param_groups"]]
    if sizes != [len(group["params"]) for group in optimiser.param_groups]:
        raise ValueError(f"the optimiser has groups of {sizes} parameters")
    for group, own in zip(saved["param_groups"], optimiser.param_groups, strict=True):
        for number, parameter in zip(group["params"], own["params"], strict=True):
            moments = saved["state"].get(number)
            # A parameter without any gradient so far has none.
            if moments and any(moments[name].shape != parameter.shape for name in ("exp_avg", "exp_avg_sq")):
                raise ValueError(f"the optimiser's moments of parameter {number} have another shape")
