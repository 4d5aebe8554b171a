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
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.errors import ConfigError

T = TypeVar("T")

# Unknown keys are faults; NaN and Inf are never meant.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


def choices(name: str, known: Sequence[str] | dict[str, Any]) -> str:
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


def check(cls: type[T], tree: Any, where: str) -> T:
    """``tree`` (mappings, lists, scalars) as an instance of the dataclass ``cls``.

    Raises:
        ConfigError: one error with a line per fault: key, fault, value found, what was expected.
    """
    if not isinstance(tree, dict):
        raise ConfigError("no settings", where=where, found=tree, expected="a mapping of keys to values")
    made, faults = parse(cls, tree)
    if made is None:
        raise ConfigError("\n  ".join([f"{len(faults)} fault(s) in the settings:", *faults]), where=where)
    return made


def parse(cls: type[T], tree: dict[str, Any]) -> tuple[T | None, list[str]]:
    """``tree`` as an instance of the dataclass ``cls``, or None and a line per fault."""
    try:
        # The JSON mode is strict about scalars yet lets a list stand for a tuple.
        return TypeAdapter(cls).validate_json(json.dumps(tree, default=str)), []
    except ValidationError as error:
        return None, [_describe(fault, cls) for fault in error.errors()]


def override(tree: Any, item: str) -> None:
    key, sep, value = item.partition("=")
    if not sep or not key:
        raise ConfigError("override is not key=value", where="command line", found=item)
    *parents, last = key.split(".")
    node = tree
    for name in parents:
        if not isinstance(node, dict) or name not in node:
            known = list(node) if isinstance(node, dict) else []
            raise ConfigError(f"unknown key {key!r}", where="command line", found=name, expected=choices(name, known))
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
