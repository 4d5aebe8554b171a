"""Checkpoint files that are never half written. The last ones are kept, and damaged ones are passed over."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from components import storage
from components.errors import TrainingError

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{9})\.pt")
_DIGEST_BYTES = hashlib.sha256().digest_size


class Checkpoints:
    """The checkpoints of one training in one folder, by number of finished steps.

    Args:
        folder: A path or URI that every process of the training can read. The first save makes it.
        keep: How many of the newest checkpoints to keep.
    """

    def __init__(self, folder: storage.Location, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes ``state`` (tensors, numbers, strings, lists, dicts) so that a reader sees all of it or nothing.

        Checkpoints of later steps are deleted: a training that saves step 10 has passed over a damaged step 20.

        Raises:
            TrainingError: The storage refuses.
        """
        content = io.BytesIO()
        torch.save(dict(state), content)
        # PyTorch would load changed bytes as numbers without noticing.
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
        """The newest usable checkpoint and its step. A damaged one costs a warning and the steps since the one before.

        Args:
            check: Raises ValueError if a state does not belong to this training.
        """
        for step in self.steps():
            try:
                state = self.load(step)
                if check is not None:
                    check(state)
            except Exception as error:  # damaged bytes can raise anything
                logger.warning("checkpoint %s is damaged (%s), trying the one before", self.path(step), error)
            else:
                return step, state
        return None

    def load(self, step: int) -> dict[str, Any]:
        """The state saved after ``step`` steps, on the CPU.

        Raises:
            ValueError: The file is damaged.
            DataError: The file cannot be read.
        """
        content = memoryview(storage.read_bytes(self.path(step)))
        body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if not body or hashlib.sha256(body).digest() != digest:
            raise ValueError(f"the checksum of {len(content)} bytes is wrong")
        state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        return state

    def path(self, step: int) -> str:
        """The path or URI of the checkpoint of ``step``."""
        return storage.join(self.folder, f"step-{step:09d}.pt")
