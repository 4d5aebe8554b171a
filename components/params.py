"""All of params.yaml. The class of each block is next to the code that reads it, and they come together here.

``methods`` is kept as plain mappings. The settings class of a method checks them when the method is built, so that a
stage that trains nothing imports no method.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic.dataclasses import dataclass

from components.backbones.settings import BackboneSettings
from components.cluster import RaySettings
from components.config import STRICT, Fault, choices, list_faults, override, parse, parse_yaml
from components.embedded.settings import DemoSettings, PretrainSettings
from components.errors import ConfigError, without_secrets
from components.evaluation.settings import EvaluationSettings
from components.ingest.settings import FrameSettings
from components.search.settings import SearchSettings
from components.task import TaskSettings
from components.tracking.settings import TrackingSettings
from components.training.settings import ExecutionSettings, TrainingSettings

T = TypeVar("T")

# Keys of earlier versions and what they are called now.
OLD_KEYS = {
    "training.slices": "training.micro_batches",
    "training.clip_norm": "training.max_grad_norm",
    "training.cached_gradients": "training.grad_cache",
    "training.workers": "execution.workers",
    "training.cache_mib": "execution.cache_mib",
    "training.checkpoint_steps": "execution.checkpoint_steps",
    "training.keep_checkpoints": "execution.keep_checkpoints",
    "training.storage": "execution.storage",
    "training.timeout_seconds": "execution.timeout_seconds",
    "training.max_failures": "execution.max_failures",
}

# Checks of names that params.py itself cannot know, such as those of plug-ins: the path of the key, with * for any
# name, to a function of the last name and the value that raises ConfigError.
NameChecks = Mapping[str, Callable[[str, Any], object]]


@dataclass(frozen=True, config=STRICT)
class RunSettings:
    """What ``dvc repro`` runs: every method on every task, once per seed."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, config=STRICT)
class TaskEntry(TaskSettings):
    """An entry of ``tasks``: a collection, its protocol, and its backbone if that is not the project's.

    Attributes:
        backbone: A whole block, of which no key comes from the project's block. None means the project's backbone.
    """

    backbone: BackboneSettings | None = None


@dataclass(frozen=True, config=STRICT)
class Params:
    """All settings of params.yaml."""

    run: RunSettings
    tasks: dict[str, TaskEntry]
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

    def task(self, name: str) -> TaskEntry:
        """The task called ``name``.

        Raises:
            ConfigError: There is no such task.
        """
        return _pick(self.tasks, "task", name)

    def backbone_of(self, task: str) -> BackboneSettings:
        """The backbone of a task: its block, or else the project's.

        Raises:
            ConfigError: There is no such task.
        """
        return self.task(task).backbone or self.backbone

    def backbone_key(self, task: str) -> str:
        """The key of the block that :meth:`backbone_of` returns, for messages.

        Raises:
            ConfigError: There is no such task.
        """
        return "backbone" if self.task(task).backbone is None else f"tasks.{task}.backbone"

    def method(self, name: str) -> dict[str, Any]:
        """The unchecked settings of the method called ``name``.

        Raises:
            ConfigError: params.yaml has no such method.
        """
        return _pick(self.methods, "method", name)


def _pick(table: dict[str, T], kind: str, name: str) -> T:
    if name not in table:
        raise ConfigError(f"unknown {kind}", where=f"params.yaml {kind}s", found=name, expected=choices(name, table))
    return table[name]


def load_params(path: Path, overrides: Sequence[str] = (), names: NameChecks | None = None) -> Params:
    """Reads and checks a params file.

    Args:
        path: The YAML file.
        overrides: ``dotted.key=value`` strings, applied before the check.
        names: Further checks of names. Scripts pass :data:`components.names.NAMES`.

    Raises:
        ConfigError: The file cannot be read, or one error that lists every fault of the file and of the overrides.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("cannot be read", where=path, found=error.strerror) from None
    return check_params(parse_yaml(text, str(path)), str(path), overrides, names)


def check_params(tree: Any, where: str, overrides: Sequence[str] = (), names: NameChecks | None = None) -> Params:
    """Checks the settings of a params file that is parsed already.

    Args:
        tree: The content of the file. It is not changed.
        where: The name of the file, for messages.
        overrides: As for :func:`load_params`.
        names: As for :func:`load_params`.

    Raises:
        ConfigError: One error that lists every fault. A fault of an override is reported under "command line".
    """
    if not isinstance(tree, dict):
        raise ConfigError("no settings", where=where, found=tree, expected="a mapping of keys to values")
    tree = copy.deepcopy(tree)
    applied = [override(tree, item, Params) for item in overrides]
    given = {path for path, _ in applied}
    wrong_overrides = [fault for _, fault in applied if fault is not None]
    faults = [*_old_keys(tree, given), *_unknown_names(tree, names or {}), *_credentials(tree)]
    params, others = parse(Params, tree)
    faults += others
    if params is not None and not faults and not wrong_overrides:
        return params
    in_file = [fault for fault in faults if not _is_from(given, fault)]
    on_command_line = [*wrong_overrides, *(fault for fault in faults if _is_from(given, fault))]
    if not in_file:
        raise ConfigError(list_faults(on_command_line), where="command line")
    raise ConfigError(list_faults([*in_file, *(f"command line {fault}" for fault in on_command_line)]), where=where)


def _is_from(given: set[tuple[str, ...]], fault: Fault) -> bool:
    """Whether the faulty value, or a mapping around it, comes from an override."""
    return any(fault.path[: len(path)] == path for path in given)


def _old_keys(tree: dict[str, Any], given: set[tuple[str, ...]]) -> list[Fault]:
    """Moves the values of old keys to the new ones, so that their values are checked too, and reports each."""
    faults = []
    for old, new in OLD_KEYS.items():
        (block, key), (new_block, new_key) = old.split("."), new.split(".")
        if not isinstance(tree.get(block), dict) or key not in tree[block]:
            continue
        faults.append(Fault((block, key), f"this key is now {new}"))
        value = tree[block].pop(key)
        target = tree.setdefault(new_block, {})
        if isinstance(target, dict) and new_key not in target:
            target[new_key] = value
            if (block, key) in given:
                given.add((new_block, new_key))
    return faults


def _credentials(node: Any, path: tuple[str, ...] = ()) -> Iterator[Fault]:
    """Settings are recorded in MLflow, in dvc.lock and in git. Only the address of the tracking store is not."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _credentials(value, (*path, str(key)))
    elif isinstance(node, str) and path != ("tracking", "uri") and without_secrets(node) != node:
        cure = "set them in the environment (such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        yield Fault(path, f"credentials in a setting, which is recorded, found {node!r}; {cure}")


def _unknown_names(tree: dict[str, Any], names: NameChecks) -> Iterator[Fault]:
    for pattern, check in names.items():
        for path, value in _matches(tree, tuple(pattern.split("."))):
            try:
                check(path[-1], value)
            except ConfigError as error:
                yield Fault(path, str(error))


def _matches(node: Any, pattern: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Paths and values that match ``pattern``. Values of another form are left to the check of types."""
    if not pattern:
        yield (), node
    elif isinstance(node, dict):
        for key in node if pattern[0] == "*" else {pattern[0]} & set(node):
            yield from (((str(key), *path), value) for path, value in _matches(node[key], pattern[1:]))
