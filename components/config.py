"""Mappings, as read from YAML or JSON, to frozen and typed dataclasses. Every fault is reported at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, is_dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.errors import ConfigError

T = TypeVar("T")

# Unknown keys are faults, and so are NaN and infinity.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with settings.

    Args:
        path: The keys that lead to the value, from the top level down.
        what: The fault in one clause.
    """

    path: tuple[str, ...]
    what: str

    def __str__(self) -> str:
        return f"{'.'.join(self.path) or '(top level)'}: {self.what}"


def choices(name: str, known: Collection[str]) -> str:
    """What could be meant by the unknown name ``name``: all known names and the nearest spelling."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return "one of " + ", ".join(sorted(known)) + hint


def parse_yaml(text: str, where: str) -> Any:
    """Parses ``text`` as YAML 1.2, in which ``1e-2`` is a number.

    Raises:
        ConfigError: The text is not YAML, or a mapping has the same key twice.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"not readable as YAML: {' '.join(str(error).split())}", where=where) from None


def check(cls: type[T], tree: Any, where: str) -> T:
    """Makes an instance of the dataclass ``cls`` from ``tree`` (mappings, lists and scalars).

    Raises:
        ConfigError: One error with a line per fault. A line names the key, the fault, the value found and what was
            expected.
    """
    if not isinstance(tree, dict):
        raise ConfigError("no settings", where=where, found=tree, expected="a mapping of keys to values")
    made, faults = parse(cls, tree)
    if made is None:
        raise ConfigError(list_faults(faults), where=where)
    return made


def list_faults(faults: Sequence[object], what: str = "the settings") -> str:
    """The text of an error that lists all ``faults``, one per line."""
    return "\n  ".join([f"{len(faults)} fault(s) in {what}:", *map(str, faults)])


def parse(cls: type[T], tree: dict[str, Any]) -> tuple[T | None, list[Fault]]:
    """Makes an instance of the dataclass ``cls`` from ``tree``, or returns None and all faults."""
    try:
        # In its JSON mode, pydantic is strict about scalars but accepts a list for a tuple.
        return TypeAdapter(cls).validate_json(json.dumps(tree, default=str)), []
    except ValidationError as error:
        return None, [_describe(fault, cls) for fault in error.errors()]


def override(tree: dict[str, Any], item: str, cls: type) -> tuple[tuple[str, ...], Fault | None]:
    """Applies ``dotted.key=value`` to ``tree``. The value is read as YAML.

    Args:
        tree: The settings, changed in place.
        item: The override.
        cls: The dataclass of ``tree``. A block that may be left out, and is, is made.

    Returns:
        The path of the key or of the block that was made, and the fault if the override cannot be applied. ``tree`` is
        then unchanged.
    """
    key, sep, value = item.partition("=")
    path = tuple(key.split("."))
    if not sep or not key:
        return path, Fault(path, f"override is not key=value, found {item!r}")
    node: Any = tree
    for depth, name in enumerate(path[:-1], 1):
        if isinstance(node, dict) and node.get(name) is None and _may_be_left_out(cls, path[:depth]):
            break
        if not isinstance(node, dict) or name not in node:
            known = choices(name, node) if isinstance(node, dict) else "no key below a value"
            return path, Fault(path, f"unknown key {name!r}, expected {known}")
        node = node[name]
    else:
        depth = len(path)
    if not isinstance(node, dict):
        return path, Fault(path, f"unknown key {path[-1]!r}, expected no key below a value")
    try:
        new = parse_yaml(value, "value")
    except ConfigError as error:
        return path, Fault(path, str(error))
    for name in reversed(path[depth:]):
        new = {name: new}
    node[path[depth - 1]] = new
    return path[:depth], None


def _describe(fault: Any, cls: type) -> Fault:
    path = tuple(str(part) for part in fault["loc"])
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        near = difflib.get_close_matches(path[-1], _fields_at(cls, path[:-1]), n=1)
        return Fault(path, "unknown key" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if fault["type"] in ("missing", "missing_argument"):
        return Fault(path, "missing")
    if fault["type"] == "dataclass_type":
        return Fault(
            path, f"expected a mapping of its keys, found {fault['input']!r} (keys: {', '.join(_fields_at(cls, path))})"
        )
    return Fault(path, f"{fault['msg'][0].lower()}{fault['msg'][1:]}, found {fault['input']!r}")


def _fields_at(cls: type, path: Sequence[str]) -> list[str]:
    """The known keys under ``path``, starting from the dataclass ``cls``."""
    block = _block(_type_at(cls, path))
    return list(get_type_hints(block)) if is_dataclass(block) else []


def _type_at(cls: Any, path: Sequence[str]) -> Any:
    """The type of the value at ``path``, None if no such key is known."""
    for part in path:
        cls = _block(cls)
        fields = get_type_hints(cls) if is_dataclass(cls) else {}
        # A mapping such as `tasks` has any keys, and all its values have one type.
        cls = fields.get(part) or next(iter(get_args(cls)[1:2]), None)
    return cls


def _block(kind: Any) -> Any:
    """The dataclass in ``Block | None``, the type of a block that may be left out. Any other type as it is."""
    return next(filter(is_dataclass, get_args(kind)), kind) if isinstance(kind, UnionType) else kind


def _may_be_left_out(cls: type, path: Sequence[str]) -> bool:
    kind = _type_at(cls, path)
    return isinstance(kind, UnionType) and is_dataclass(_block(kind))
