"""Reads which method, or methods, an entry of ``methods`` in params.yaml names. Imports no method and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.errors import ConfigError
from components.methods import METHODS

# Runs several methods in one model.
COMPOSED = "components.methods.composed:Composed"


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
    names = [method] if isinstance(method, str) else method
    valid = isinstance(names, list | tuple) and names and all(isinstance(item, str) for item in names)
    if not valid or len(set(names)) < len(names):
        raise ConfigError(
            "not a method",
            where=where and f"{where}.method",
            found=method,
            expected="a name or a list of different names",
        )
    if len(names) > 1:
        settings["parts"] = {_portable(name, where): settings.pop(name, {}) for name in names}
    return "+".join(_portable(part, where) for name in names for part in name.split("+")), settings


def _portable(name: str, where: str | None) -> str:
    """A registered name as it is; for the name of an entry point, its target."""
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
