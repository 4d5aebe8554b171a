"""Which files of `components/` a script can load: its imports, followed through the code, and names in strings.

A string names a file if it is a plug-in (``components.methods.vop:VoP``), a module (``components.ingest.child``, run in
a process of its own) or a data file that lies beside the module (``mini.json``).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULE = re.compile(r"^(components(?:\.\w+)+)(:\w+)?$")


def closure(script: str) -> set[str]:
    """Files under components/, as paths from the root, that ``script`` (a path from the root) can load."""
    seen: set[str] = set()
    todo = [script]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        todo.extend(_loads(path))
    return {path for path in seen if path.startswith("components/")}


def _loads(path: str) -> list[str]:
    if not path.endswith(".py"):
        return []
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found += _files(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                found += _files(f"{node.module}.{alias.name}") or _files(node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = MODULE.match(node.value)
            beside = Path(path).with_name(node.value) if re.fullmatch(r"\w[\w.-]*", node.value) else None
            if match:
                found += _files(match[1])
            elif beside is not None and beside.suffix not in ("", ".py") and (ROOT / beside).is_file():
                found.append(beside.as_posix())
    return found


def _files(module: str) -> list[str]:
    """The module's file and the package files above it; empty for modules from elsewhere."""
    parts = module.split(".")
    if parts[0] != "components":
        return []
    base = ROOT.joinpath(*parts)
    if base.with_suffix(".py").is_file():
        own = [Path(*parts).with_suffix(".py")]
    elif (base / "__init__.py").is_file():
        own = [Path(*parts, "__init__.py")]
    else:
        return []
    packages = [Path(*parts[:k], "__init__.py") for k in range(1, len(parts))]
    return [path.as_posix() for path in [*own, *packages] if (ROOT / path).is_file()]
