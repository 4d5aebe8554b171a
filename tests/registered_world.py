"""What tests of the registry share."""

from __future__ import annotations

from pathlib import Path

from trained_world import TASK

from components.params import Params
from components.tracking.model import ModelConfig


def model_config(params: Params, root: Path) -> ModelConfig:
    """The model's configuration as the register stage makes it, with three answers per text."""
    return ModelConfig(
        root=str(root),
        task=TASK,
        backbone=params.backbone,
        split="test",
        top=3,
        batch_size=params.evaluation.batch_size,
    )
