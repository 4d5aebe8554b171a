"""Builds a method from an entry of params.yaml or from an adapter's card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from components.backbones.clip import Backbone
from components.config import check
from components.errors import ConfigError, ReelTuneError, one_line
from components.methods import METHODS
from components.methods.base import Method, MethodSettings
from components.methods.entries import COMPOSED, canonical


def method_class(name: str, where: object = None) -> type[Method]:
    """The class of a method, or of several joined by ``+``.

    Raises:
        ConfigError: The method is unknown or not installed, or the object is no method.
    """
    found: object = METHODS.get(COMPOSED if "+" in name else name, where)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(
            "not a method", where=where, found=name, expected="a subclass of components.methods.base:Method"
        )
    return found


def read_settings(name: str, raw: Mapping[str, Any], where: str = "") -> MethodSettings:
    """The checked settings of a method.

    Args:
        name: A name as :func:`method_class` takes it.
        raw: The settings as in params.yaml.
        where: Their place, for messages. The default is ``methods.<name>``.

    Raises:
        ConfigError: The method is unknown, or the settings are wrong. The message lists all their faults.
    """
    where = where or f"methods.{name}"
    settings = method_class(name, where).Settings
    return check(settings, settings.expand(name, raw, where), where)


def build(
    name: str,
    settings: MethodSettings | Mapping[str, Any],
    backbone: Backbone,
    *,
    frames: int,
    words: int,
    where: str = "",
) -> Method:
    """A method on ``backbone``.

    Args:
        name: A registered name, the name of an entry point, ``"package.module:Class"``, or several of these joined by
            ``+``. If ``settings`` has the key ``method``, the name is only a label.
        settings: Checked settings, or a mapping as in params.yaml.
        backbone: The frozen CLIP. It does not change and may serve other methods.
        frames: T, the most frames per video.
        words: L, the most tokens per text.
        where: The place of the settings, for messages. The default is ``methods.<name>``.

    Raises:
        ConfigError: The method is unknown or not installed, or its settings are wrong or do not fit the backbone,
            ``frames`` or ``words``.
    """
    where = where or f"methods.{name}"
    if isinstance(settings, Mapping):
        name, raw = canonical(name, settings, where)
        settings = read_settings(name, raw, where)
    return method_class(name, where)(backbone, settings, frames=frames, words=words, name=name)


def parameter_shapes(
    name: str,
    settings: MethodSettings | Mapping[str, Any],
    backbone: Backbone,
    *,
    frames: int,
    words: int,
    where: str = "",
) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that :func:`build` would make, by name, found without memory for them.

    Raises:
        ConfigError: As :func:`build`, or the settings ask for sizes that no tensor has.
    """
    where = where or f"methods.{name}"
    try:
        with torch.device("meta"):
            method = build(name, settings, backbone, frames=frames, words=words, where=where)
    except ReelTuneError:
        raise
    except Exception as error:  # PyTorch and Python raise several kinds for sizes that do not fit
        raise ConfigError(
            "the settings ask for parameters that cannot be made", where=where, found=one_line(error)
        ) from None
    return {name: tuple(parameter.shape) for name, parameter in method.trainable().items()}
