"""Entries of ``methods`` in params.yaml: which method, or methods, one stands for. Imports no method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.errors import ConfigError
from components.methods import METHODS

# What runs several methods in one model.
COMPOSED = "components.methods.composed:Composed"


def canonical(label: str, raw: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The method and the settings behind the entry ``label`` of ``methods`` in params.yaml.

    An entry is a method's name with its settings. With the key ``method`` it is a name of one's own for another method,
    or for a list of methods that act together, each with its settings under its name.

    Returns:
        A registered name, or several joined as in ``"vop+mv_adapter"``, and settings for :func:`read_settings`.

    Raises:
        ConfigError: ``method`` is neither a name nor a list of different names.
    """
    settings = dict(raw)
    method = settings.pop("method", label)
    names = [method] if isinstance(method, str) else method
    right = isinstance(names, list | tuple) and names and all(isinstance(item, str) for item in names)
    if not right or len(set(names)) < len(names):
        raise ConfigError(
            "not a method",
            where=f"methods.{label}.method",
            found=method,
            expected="a name or a list of different names",
        )
    if len(names) > 1:
        settings["parts"] = {name: settings.pop(name, {}) for name in names}
    return "+".join(names), settings


def targets(name: str) -> list[str]:
    """``"package.module:Class"`` of what method ``name``, or several joined by ``+``, runs.

    Plain CLIP is among them: training compares captions under it, whatever the method.

    Raises:
        ConfigError: unknown method.
    """
    composed = [COMPOSED] if "+" in name else []
    return [*composed, *(METHODS.target(part) for part in (*name.split("+"), "zero_shot"))]
