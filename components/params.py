"""The whole of params.yaml. Each block's class stands with the code that reads it; here they come together.

``methods`` is kept as plain mappings: a method's settings class checks them
(:func:`components.methods.build.read_settings`), so that stages that train nothing do not import the methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic.dataclasses import dataclass

from components.backbones.settings import BackboneSettings
from components.cluster import RaySettings
from components.config import STRICT, check, choices, override, parse_yaml
from components.embedded.settings import DemoSettings, PretrainSettings
from components.errors import ConfigError
from components.evaluation.settings import EvaluationSettings
from components.ingest.settings import FrameSettings
from components.search.settings import SearchSettings
from components.task import TaskSettings
from components.tracking.settings import TrackingSettings
from components.training.settings import ExecutionSettings, TrainingSettings

T = TypeVar("T")


@dataclass(frozen=True, config=STRICT)
class RunSettings:
    """What ``dvc repro`` runs: every method on every task, once per seed."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, config=STRICT)
class Params:
    """The whole of params.yaml."""

    run: RunSettings
    tasks: dict[str, TaskSettings]
    backbone: BackboneSettings
    methods: dict[str, dict[str, Any]]
    frames: FrameSettings
    training: TrainingSettings
    execution: ExecutionSettings
    evaluation: EvaluationSettings
    tracking: TrackingSettings
    search: SearchSettings
    demo: DemoSettings
    pretrain: PretrainSettings
    ray: RaySettings

    def task(self, name: str) -> TaskSettings:
        """The task called ``name``.

        Raises:
            ConfigError: no such task.
        """
        return _pick(self.tasks, "task", name)

    def method(self, name: str) -> dict[str, Any]:
        """The raw settings of the method called ``name``.

        Raises:
            ConfigError: no such method in params.yaml.
        """
        return _pick(self.methods, "method", name)


def _pick(table: dict[str, T], kind: str, name: str) -> T:
    if name not in table:
        raise ConfigError(f"unknown {kind}", where=f"params.yaml {kind}s", found=name, expected=choices(name, table))
    return table[name]


def load_params(path: Path, overrides: Sequence[str] = ()) -> Params:
    """Reads and checks a params file.

    Args:
        path: the YAML file.
        overrides: ``dotted.key=value`` strings, applied before the check.

    Raises:
        ConfigError: one error that lists every fault of the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("cannot be read", where=path, found=error.strerror) from None
    tree = parse_yaml(text, str(path))
    for item in overrides if isinstance(tree, dict) else ():
        override(tree, item)
    return check(Params, tree, str(path))
