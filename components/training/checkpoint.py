"""Checkpoints that are never half there: written aside, renamed, the last ones kept, damaged ones passed over."""

from __future__ import annotations

import logging
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from components import storage

logger = logging.getLogger(__name__)

KEPT = 2
_NAME = re.compile(r"step-(\d{9})\.pt")


class Checkpoints:
    """The checkpoints of one training in one folder, by number of finished steps.

    Args:
        folder: a path that every process of the training can read; made on the first save.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes ``state`` (tensors, numbers, strings, lists, dicts) so that a reader sees all of it or nothing."""
        with storage.atomic_file(self._path(step)) as aside:
            torch.save(state, aside)
        for old in self.steps()[KEPT:]:
            self._path(old).unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, newest first."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest readable checkpoint and its step; a damaged one costs a warning and the steps since the last."""
        for step in self.steps():
            try:
                return step, self.load(step)
            except Exception as error:  # whatever the damaged bytes lead to
                logger.warning("checkpoint %s is damaged (%s), trying the one before", self._path(step), error)
        return None

    def load(self, step: int) -> dict[str, Any]:
        """The state saved after ``step`` steps, on the CPU.

        Raises:
            Exception: of many kinds, if the file is damaged.
        """
        # torch.load itself would take changed bytes for numbers.
        with zipfile.ZipFile(self._path(step)) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"checksum of {broken} is wrong")
        state: dict[str, Any] = torch.load(self._path(step), map_location="cpu", weights_only=True)
        return state

    def clear(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.pt"
