"""JSON records on disk: frozen dataclasses, read through one checked function and written whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from components import storage
from components.config import parse
from components.errors import DataError, ReelTuneError

T = TypeVar("T")


def read_record(
    path: str | Path, cls: type[T], *, error: type[ReelTuneError] = DataError, cure: str | None = None
) -> T:
    """The record in a JSON file.

    Args:
        path: path or URI of the file.
        cls: a frozen pydantic dataclass whose configuration is :data:`components.config.STRICT`.
        error: the kind of error to raise.
        cure: what to do where the file is missing.

    Raises:
        ReelTuneError: of the kind ``error``: no file, not JSON, or fields that are missing, unknown or of another type;
            the message lists all of them.
    """
    tree = read_tree(path, error=error, cure=cure)
    record, faults = parse(cls, tree)
    if record is None:
        raise error("\n  ".join([f"{len(faults)} fault(s) in this record:", *faults]), where=path)
    return record


def read_tree(path: str | Path, *, error: type[ReelTuneError] = DataError, cure: str | None = None) -> dict[str, Any]:
    """The JSON object in a file, unchecked; for what has no fixed fields, and to look at a record's format first.

    Raises:
        ReelTuneError: of the kind ``error``: no file, or not a JSON object.
    """
    if not storage.exists(path):
        raise error("missing", where=path, cure=cure)
    try:
        tree = json.loads(storage.read_text(path))
    except DataError as fault:
        raise error(str(fault)) from None
    except ValueError as fault:
        raise error(f"not JSON: {fault}", where=path) from None
    if not isinstance(tree, dict):
        raise error("not a JSON object", where=path, found=type(tree).__name__)
    return tree


def write_record(path: str | Path, record: Any) -> None:
    """Writes a dataclass as JSON; the file appears whole or not at all."""
    storage.write_bytes(path, (json.dumps(asdict(record), indent=1) + "\n").encode())
