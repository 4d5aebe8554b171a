"""Which code a method runs: the files behind it, and their hash.

An edit of one method must not make the adapters of others out of date.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

from components.methods import METHODS

PACKAGE = "components.methods"

# Training compares captions under plain CLIP, whatever the method.
ALWAYS = "zero_shot"

FOLDER = Path(__file__).parent


def files_of(names: Iterable[str]) -> list[Path]:
    """The files of this folder that trainings of the registered methods ``names`` run, sorted.

    The registry is none of them: a new line there changes no other method.

    Raises:
        ConfigError: unknown method.
    """
    todo = [METHODS.target(name).partition(":")[0] for name in (*names, ALWAYS)]
    found: set[Path] = set()
    while todo:
        module = todo.pop()
        path = FOLDER / f"{module.removeprefix(PACKAGE + '.')}.py"
        # Plug-ins from elsewhere have no file here.
        if module.startswith(f"{PACKAGE}.") and path not in found and path.is_file():
            found.add(path)
            todo += _imports(path)
    return sorted(found)


def _imports(path: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]


def code_hash(method: str) -> str:
    """Hex SHA-256 of the files behind a method, or several joined by ``+``."""
    digest = hashlib.sha256()
    for path in files_of(method.split("+")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
