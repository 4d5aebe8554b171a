"""params.yaml to frozen, typed settings; every fault of a file is reported at once, with key and cure.

The keys of params.yaml are the fields below. ``methods`` is kept as plain mappings here: a method's own settings
class checks them (:func:`components.methods.base.read_settings`), so that stages that train nothing neither import
nor depend on the methods.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.errors import ConfigError

T = TypeVar("T")

# Unknown keys are faults; NaN and Inf are never meant.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=STRICT)
class Run:
    """What ``dvc repro`` runs: every method on every task, once per seed."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, config=STRICT)
class Task:
    """One collection: where it is, who reads it, and its protocol's frames and words."""

    benchmark: str
    root: str
    frames: Count
    words: Annotated[int, Field(ge=3)]
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Backbone:
    """The frozen CLIP: an open_clip model name or the path of a model config, and its weights."""

    model: str
    pretrained: str
    quick_gelu: bool = False


@dataclass(frozen=True, config=STRICT)
class Frames:
    """How videos become stored frames."""

    decoder: str
    sampling: Literal["uniform", "segment_center", "segment_random", "clip4clip", "mv_adapter", "adaptive"]
    size: Annotated[int, Field(ge=16)]
    quality: Annotated[int, Field(ge=1, le=100)]
    chroma: Literal[444, 420]
    shard_videos: Count
    row_group_videos: Count
    time_limit_seconds: Seconds
    memory_limit_mib: Annotated[int, Field(ge=256)]
    max_failed_share: Share
    store: str


@dataclass(frozen=True, config=STRICT)
class Training:
    """The optimisation that all methods share; a method's own learning rate stands with the method."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    batching: Literal["random", "hard"]
    hard_group: Annotated[int, Field(ge=2)]
    last_batch: Literal["drop", "keep"]
    captions_per_video: Count
    augmentation: Literal["none", "crop_flip"]
    warmup_share: Share
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)]
    validation_every: Count
    select_on: Literal["last", "val", "test"]
    checkpoint_steps: Count
    keep_checkpoints: Count
    storage: str
    workers: Count
    threads: Count
    slices: Count
    cached_gradients: bool
    checkpoint_activations: bool
    cache_frozen: bool
    precision: Literal["float32", "bfloat16"]
    cache_mib: Annotated[int, Field(ge=0)]
    timeout_seconds: Seconds
    max_failures: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class DualSoftmax:
    """Re-scoring by a softmax over all queries of the split."""

    temperature: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=STRICT)
class QbNorm:
    """Re-scoring by a bank of training queries."""

    beta: Annotated[float, Field(gt=0)]
    top: Count
    bank: Count


@dataclass(frozen=True, config=STRICT)
class Evaluation:
    """How scorecards are made."""

    batch_size: Count
    device: Literal["auto", "cpu", "cuda"]
    bootstrap: Annotated[int, Field(ge=100)]
    rescoring: tuple[Literal["dual_softmax", "qb_norm"], ...]
    dual_softmax: DualSoftmax
    qb_norm: QbNorm


@dataclass(frozen=True, config=STRICT)
class Tracking:
    """What goes to MLflow and when a registry alias moves."""

    uri: str
    methods: tuple[str, ...]
    alias: str
    metric: str
    margin: Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class Search:
    """The index and its answers."""

    split: Literal["train", "val", "test", "all"]
    top: Count


@dataclass(frozen=True, config=STRICT)
class DemoTask:
    """Sizes of one embedded collection, in groups of hard negatives and random videos per split."""

    seconds: Seconds
    train_random: Count
    train_groups: Count
    val_random: Count
    val_groups: Count
    test_random: Count
    test_groups: Count


@dataclass(frozen=True, config=STRICT)
class Demo:
    """The embedded collections of moving shapes."""

    seed: int
    size: Annotated[int, Field(ge=64)]
    fps: Count
    clips: DemoTask
    stories: DemoTask


@dataclass(frozen=True, config=STRICT)
class Pretrain:
    """The embedded mini CLIP, trained once on still pictures."""

    seed: int
    steps: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    motion_share: Share


@dataclass(frozen=True, config=STRICT)
class Ray:
    """The local cluster that is started when RAY_ADDRESS is not set."""

    num_cpus: Count
    object_store_mib: Count


@dataclass(frozen=True, config=STRICT)
class Params:
    """The whole of params.yaml."""

    run: Run
    tasks: dict[str, Task]
    backbone: Backbone
    methods: dict[str, dict[str, Any]]
    frames: Frames
    training: Training
    evaluation: Evaluation
    tracking: Tracking
    search: Search
    demo: Demo
    pretrain: Pretrain
    ray: Ray

    def task(self, name: str) -> Task:
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
        raise ConfigError(f"unknown {kind}", where=f"params.yaml {kind}s", found=name, expected=_choices(name, table))
    return table[name]


def _choices(name: str, known: Sequence[str] | dict[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return "one of " + ", ".join(sorted(known)) + hint


def parse_yaml(text: str, where: str) -> Any:
    """``text`` as YAML 1.2, in which ``1e-2`` is a number.

    Raises:
        ConfigError: not YAML, or a key stands twice.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"not readable as YAML: {' '.join(str(error).split())}", where=where) from None


def load(path: Path, overrides: Sequence[str] = ()) -> Params:
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
        _override(tree, item)
    return check(Params, tree, str(path))


def check(cls: type[T], tree: Any, where: str) -> T:
    """``tree`` (mappings, lists, scalars) as an instance of the dataclass ``cls``.

    Raises:
        ConfigError: one error with a line per fault: key, fault, value found, what was expected.
    """
    if not isinstance(tree, dict):
        raise ConfigError("no settings", where=where, found=tree, expected="a mapping of keys to values")
    adapter = TypeAdapter(cls)
    try:
        # The JSON mode is strict about scalars yet lets a list stand for a tuple.
        return adapter.validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        lines = [_describe(fault, cls) for fault in error.errors()]
    raise ConfigError("\n  ".join([f"{len(lines)} fault(s) in the settings:", *lines]), where=where)


def _override(tree: Any, item: str) -> None:
    key, sep, value = item.partition("=")
    if not sep or not key:
        raise ConfigError("override is not key=value", where="command line", found=item)
    *parents, last = key.split(".")
    node = tree
    for name in parents:
        if not isinstance(node, dict) or name not in node:
            known = list(node) if isinstance(node, dict) else []
            raise ConfigError(f"unknown key {key!r}", where="command line", found=name, expected=_choices(name, known))
        node = node[name]
    if not isinstance(node, dict):
        raise ConfigError(f"unknown key {key!r}", where="command line", found=last)
    node[last] = parse_yaml(value, f"command line {key}")


def _describe(fault: Any, cls: type) -> str:
    path = [str(part) for part in fault["loc"]]
    key = ".".join(path) or "(top level)"
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        near = difflib.get_close_matches(path[-1], _fields_at(cls, path[:-1]), n=1)
        return f"{key}: unknown key" + (f" (did you mean {near[0]!r}?)" if near else "")
    if fault["type"] in ("missing", "missing_argument"):
        return f"{key}: missing"
    return f"{key}: {fault['msg'][0].lower()}{fault['msg'][1:]}, found {fault['input']!r}"


def _fields_at(cls: Any, path: Sequence[str]) -> list[str]:
    """The keys that are right under ``path``, starting from the dataclass ``cls``."""
    for part in path:
        fields = get_type_hints(cls) if is_dataclass(cls) else {}
        # Under a mapping such as `tasks` any name may stand; its values have one type.
        cls = fields.get(part) or next(iter(get_args(cls)[1:2]), None)
    return list(get_type_hints(cls)) if is_dataclass(cls) else []
