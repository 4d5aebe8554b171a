"""Reads which method, or methods, an entry of ``methods`` in params.yaml names. Imports no method and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.errors import ConfigError
from components.methods import METHODS

# Runs several methods in one model.
COMPOSED = "components.methods.composed:Composed"

# Methods with more than one vector per video. An index holds one.
MANY_VECTORS = frozenset({"components.methods.late:Late"})


def canonical(label: str, raw: Mapping[str, Any], where: str | None = None) -> tuple[str, dict[str, Any]]:
    """The method that an entry of ``methods`` names, and its settings.

    An entry is a method's name with its settings. With the key ``method``, the entry's name is only a label. ``method``
    names another method, or lists methods that act together. Each method of a list has its settings under its name.

    Args:
        label: The name of the entry.
        raw: Its content.
        where: Its place, for messages.

    Returns:
        A name that needs no entry points, or several joined as in ``"vop+mv_adapter"``, and settings for
        :func:`components.methods.build.read_settings`. An adapter's card holds this name, so that loading the adapter
        without the method's package can say what to install.

    Raises:
        ConfigError: ``method`` is neither a name nor a list of different names, or a name is unknown.
    """
    settings = dict(raw)
    method = settings.pop("method", label)
    given = [method] if isinstance(method, str) else method
    if not (isinstance(given, list | tuple) and given and all(isinstance(name, str) for name in given)):
        raise _not_a_method(method, where)
    names = ["+".join(_portable(part, where) for part in name.split("+")) for name in given]
    if len(set(names)) < len(names):
        raise _not_a_method(method, where)
    if len(names) > 1:
        settings["parts"] = {name: settings.pop(key, {}) for name, key in zip(names, given, strict=True)}
    return "+".join(names), settings


def check_searchable(name: str, where: str) -> None:
    """Refuses a method that an index cannot hold.

    Args:
        name: A name as :func:`canonical` returns it.
        where: The place of the setting that asks for it.

    Raises:
        ConfigError: The method keeps a vector per frame.
    """
    found = [part for part in name.split("+") if METHODS.target(part) in MANY_VECTORS]
    if found:
        raise ConfigError(
            "the method keeps a vector per frame and word, and an index holds one per video",
            where=where,
            found=name,
            expected=f"a method without {found[0]}",
            cure=f"leave it out of tracking.methods, or train it without {found[0]} to search with it",
        )


def _not_a_method(found: object, where: str | None) -> ConfigError:
    return ConfigError(
        "not a method",
        where=where and f"{where}.method",
        found=found,
        expected="a name or a list of different names",
    )


def _portable(name: str, where: str | None) -> str:
    """A registered name unchanged. The name of an entry point becomes its target."""
    return name if name in METHODS else METHODS.target(name, where)


def targets(name: str) -> list[str]:
    """``"package.module:Class"`` of everything that a method runs.

    Plain CLIP is included: whatever the method, training compares captions with it.

    Args:
        name: A name as :func:`canonical` returns it.

    Raises:
        ConfigError: The method is unknown.
    """
    composed = [COMPOSED] if "+" in name else []
    return [*composed, *(METHODS.target(part) for part in (*name.split("+"), "zero_shot"))]
