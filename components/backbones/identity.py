"""A backbone's settings, the hash of each file that they name, and its family. Needs neither torch nor the backbone."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.backbones.families import FAMILIES, family_of
from components.backbones.settings import BackboneSettings
from components.provenance import sha256_file


def identity(settings: BackboneSettings, root: Path) -> dict[str, Any]:
    """What decides a backbone, as far as it is known without loading it.

    Args:
        settings: The backbone.
        root: The folder that relative paths start from.

    Returns:
        ``settings``, and in ``files`` the SHA-256 of every file or folder that a setting names. A tag is a name only.
    """
    tree = asdict(settings)
    files = {text: _sha256(root / text) for text in sorted(set(_texts(tree))) if text and (root / text).exists()}
    return {"settings": tree, "files": files}


def families(settings: BackboneSettings, root: Path) -> list[str]:
    """``"package.module:function"`` of the backbone's family; of all families where only the weights say which it is.

    Args:
        settings: The backbone.
        root: The folder that relative paths start from.
    """
    config = _config(settings.model, root)
    family = None if config is None else family_of(config.get("model_cfg", config))
    return [FAMILIES.target(name) for name in (FAMILIES if family is None else [family])]


def _config(model: str, root: Path) -> dict[str, Any] | None:
    """The model's config, from a file. Its faults are those of loading the backbone."""
    if model == "mini":
        return {}
    # open_clip is not imported for this, since it imports torch.
    package = importlib.util.find_spec("open_clip")
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    places = [root / model] if model.endswith(".json") else [Path(f, "model_configs", f"{model}.json") for f in folders]
    try:
        tree = json.loads(next(place for place in places if place.is_file()).read_text(encoding="utf-8"))
    except (StopIteration, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list | tuple):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _texts(value)


def _sha256(path: Path) -> str:
    """The hash of a file's bytes, or of the names and bytes of all files in a folder."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
