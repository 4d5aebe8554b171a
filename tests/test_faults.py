"""docs/faults.md names tests that exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "faults.md"


def rows() -> list[list[str]]:
    """The cells of every row of every table, without the heads."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] not in ("Fault", "---|---|---")]


@functools.cache
def names_in(file: str) -> frozenset[str]:
    """The test functions of a file, in classes too."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_every_fault_has_a_test_that_exists() -> None:
    found = rows()
    assert len(found) > 60
    for row in found:
        assert len(row) == 3, row
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[2])
        assert named, row[0]
        assert row[2] == ", ".join(f"`{file}::{name}`" for file, name in named), row[0]
        for file, name in named:
            assert name in names_in(file), f"{file}::{name}"
