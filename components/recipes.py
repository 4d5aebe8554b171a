"""Recipes: files of settings that replace those of params.yaml, a section per paper.

In a section, an entry of ``tasks`` or ``methods`` replaces the whole entry of that name; elsewhere single keys do.
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

# Parts in which a recipe replaces whole entries: what an entry leaves out has its default, not an older value.
WHOLE_ENTRIES = ("tasks", "methods")


def read_recipe(path: Path, paper: str) -> dict[str, dict[str, Any]]:
    """One section of a recipe.

    Raises:
        ConfigError: no such file or section, or not of that form.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            "recipe cannot be read", where=path, found=error.strerror, expected="a file of params/"
        ) from None
    sections = config.parse_yaml(text, str(path))
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise ConfigError("not a recipe", where=path, expected="sections of settings, one per paper")
    if paper not in sections:
        raise ConfigError("no such section", where=path, found=paper, expected="one of " + ", ".join(sections))
    return dict(sections[paper])


def merge(tree: dict[str, Any], recipe: dict[str, dict[str, Any]], where: object) -> list[str]:
    """Puts a recipe into the tree of params.yaml; what it changed, as ``key: old -> new``.

    Raises:
        ConfigError: a part that params.yaml does not have.
    """
    changed = []
    for part, settings in recipe.items():
        if not isinstance(tree.get(part), dict) or not isinstance(settings, dict):
            raise ConfigError("unknown part", where=where, found=part, expected="one of " + ", ".join(tree))
        for key, value in settings.items():
            if part not in WHOLE_ENTRIES and key not in tree[part]:
                raise ConfigError("unknown key", where=f"{where} {part}", found=key, expected=", ".join(tree[part]))
            old = tree[part].get(key)
            if old != value:
                changed.append(f"{part}.{key}: {_shown(old)} -> {_shown(value)}")
                tree[part][key] = value
    return changed


def apply(params: Path, recipe: Path, paper: str) -> list[str]:
    """Writes a recipe into a params file, whose comments stay; returns what changed.

    Raises:
        ConfigError: as :func:`read_recipe` and :func:`merge`, or settings that are wrong together.
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
