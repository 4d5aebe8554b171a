"""Recipes: files in ``params/`` that replace settings of params.yaml, with one section per paper.

Under ``tasks`` and ``methods`` a recipe replaces whole entries. In all other blocks it replaces single keys.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from components import config, storage
from components.errors import ConfigError
from components.names import NAMES
from components.params import check_params

# A key that an entry of these blocks leaves out takes its default, not the value of an older entry.
WHOLE_ENTRIES = ("tasks", "methods")


def read_recipe(path: Path, paper: str) -> dict[str, dict[str, Any]]:
    """Read one section of a recipe.

    Args:
        path: The recipe.
        paper: The section's name, such as ``vop``.

    Returns:
        The settings to replace, by block of params.yaml.

    Raises:
        ConfigError: The file or the section does not exist, or has another form.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            "recipe cannot be read", where=path, found=error.strerror, expected="a file in params/"
        ) from None
    sections = config.parse_yaml(text, str(path))
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise ConfigError("not a recipe", where=path, expected="sections of settings, one per paper")
    if paper not in sections:
        raise ConfigError("no such section", where=path, found=paper, expected="one of " + ", ".join(sections))
    return dict(sections[paper])


def merge(tree: dict[str, Any], recipe: dict[str, dict[str, Any]], where: object) -> list[str]:
    """Write a recipe into the tree of params.yaml.

    Args:
        tree: The settings, changed in place. Keys are not checked here.
        recipe: The settings to replace, by block.
        where: The recipe's name in errors.

    Returns:
        One line ``key: old -> new`` per change.

    Raises:
        ConfigError: params.yaml has no such block.
    """
    changed = []
    for block, settings in recipe.items():
        if not isinstance(tree.get(block), dict) or not isinstance(settings, dict):
            raise ConfigError("unknown block", where=where, found=block, expected=config.choices(block, tree))
        for key, value in settings.items():
            old = tree[block].get(key)
            if old != value:
                changed.append(f"{block}.{key}: {_shown(old)} -> {'null' if value is None else _shown(value)}")
                tree[block][key] = value
    return changed


def apply(params: Path, recipe: Path, paper: str) -> list[str]:
    """Write a recipe into a params file and keep the file's comments.

    Args:
        params: The params file. It stays as it is if the result would have faults.
        recipe: The recipe.
        paper: The section's name.

    Returns:
        One line ``key: old -> new`` per change.

    Raises:
        ConfigError: As :func:`read_recipe` and :func:`merge`, or a list of all faults of the result.
    """
    yaml = YAML()
    yaml.width = 120
    try:
        tree = yaml.load(params.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("cannot be read", where=params, found=error.strerror) from None
    changed = merge(tree, read_recipe(recipe, paper), recipe)
    text = io.StringIO()
    yaml.dump(tree, text)
    check_params(config.parse_yaml(text.getvalue(), str(params)), f"{params} with {recipe}", names=NAMES)
    storage.write_bytes(params, text.getvalue().encode())
    return changed


def _shown(value: Any) -> str:
    if value is None:
        return "(new)"
    return "{...}" if isinstance(value, dict) and value else repr(value)
