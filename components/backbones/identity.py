"""A backbone's settings and the hash of each file that they name. Needs neither torch nor the backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
