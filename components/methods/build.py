"""From an entry of params.yaml, or of an adapter's card, to a method on a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components import config
from components.backbones.clip import Backbone
from components.errors import ConfigError
from components.methods import METHODS
from components.methods.base import Method, MethodSettings
from components.methods.entries import COMPOSED, canonical


def method_class(name: str, where: object = None) -> type[Method]:
    """The class of a method, or of several joined by ``+``. Its ``name`` is the one it was asked for under.

    Raises:
        ConfigError: An unknown method, one that is not installed, or an object that is no method.
    """
    found: object = METHODS.get(COMPOSED if "+" in name else name, where)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(
            "not a method", where=where, found=name, expected="a subclass of components.methods.base:Method"
        )
    return _named(found, name)


def _named(found: type[Method], name: str) -> type[Method]:
    """The class under the name of its registration, so that an adapter's card names what loads it."""
    if getattr(found, "name", None) == name:
        return found
    return type(found.__name__, (found,), {"name": name, "__module__": found.__module__, "__doc__": found.__doc__})


def read_settings(name: str, raw: Mapping[str, Any], where: str = "") -> MethodSettings:
    """The settings of method ``name``, checked.

    Raises:
        ConfigError: An unknown method, or all faults of the settings at once.
    """
    where = where or f"methods.{name}"
    cls = method_class(name, where)
    expanded = cls.Settings.expand({**cls.presets.get(name, {}), **raw}, where)
    return config.check(cls.Settings, expanded, where)


def build(
    name: str, settings: MethodSettings | Mapping[str, Any], backbone: Backbone, *, frames: int, words: int
) -> Method:
    """Method ``name`` on ``backbone``.

    Args:
        name: A registered name, ``"package.module:Class"``, or several joined by ``+``. A label where ``settings`` has
            the key ``method``.
        settings: Checked settings, or a mapping as in params.yaml.
        backbone: The frozen CLIP. It stays as it is and may serve other methods.
        frames: T, the most frames per video.
        words: L, the most tokens per text.

    Raises:
        ConfigError: An unknown method, or settings that are wrong or do not fit the backbone, frames or words.
    """
    if isinstance(settings, Mapping):
        label = name
        name, raw = canonical(name, settings)
        settings = read_settings(name, raw, f"methods.{label}")
    return method_class(name)(backbone, settings, frames=frames, words=words)
