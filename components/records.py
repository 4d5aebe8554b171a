"""JSON records on disk: frozen dataclasses, read through one checked function and written whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from components import storage
from components.config import list_faults, parse
from components.errors import DataError, MissingFileError, ReelTuneError

T = TypeVar("T")


def read_record(
    path: str | Path, cls: type[T], *, error: type[ReelTuneError] = DataError, cure: str | None = None
) -> T:
    """Reads the record in a JSON file.

    Args:
        path: The path or URI of the file.
        cls: A frozen pydantic dataclass with the configuration :data:`components.config.STRICT`.
        error: The kind of error to raise.
        cure: What to do if the file is missing.

    Raises:
        ReelTuneError: An error of the kind ``error``. The file is missing or not JSON, or fields are missing, unknown
            or of another type. The message lists all of them.
    """
    return make_record(read_tree(path, error=error, cure=cure), cls, path, error=error)


def make_record(tree: dict[str, Any], cls: type[T], where: str | Path, *, error: type[ReelTuneError] = DataError) -> T:
    """Makes the record in a JSON object that is read already.

    Args:
        tree: The object.
        cls: As for :func:`read_record`.
        where: The place of the object, for messages.
        error: The kind of error to raise.

    Raises:
        ReelTuneError: An error of the kind ``error`` that lists all faulty fields.
    """
    record, faults = parse(cls, tree)
    if record is None:
        raise error(list_faults(faults, "this record"), where=where)
    return record


def read_tree(path: str | Path, *, error: type[ReelTuneError] = DataError, cure: str | None = None) -> dict[str, Any]:
    """Reads the JSON object in a file without a check of its fields.

    For content without fixed fields, and for a look at a record's format before it is read.

    Args:
        path: The path or URI of the file.
        error: The kind of error to raise.
        cure: What to do if the file is missing.

    Raises:
        ReelTuneError: An error of the kind ``error``. The file is missing, cannot be read or is not a JSON object.
    """
    try:
        tree = json.loads(storage.read_text(path))
    except MissingFileError:
        raise error("missing", where=path, cure=cure) from None
    except DataError as fault:
        raise error(str(fault)) from None
    except (ValueError, RecursionError) as fault:
        raise error(f"not JSON: {fault}", where=path) from None
    if not isinstance(tree, dict):
        raise error("not a JSON object", where=path, found=type(tree).__name__)
    return tree


def write_record(path: str | Path, record: Any) -> None:
    """Writes a dataclass as JSON. The file appears whole or not at all."""
    storage.write_bytes(path, (json.dumps(asdict(record), indent=1) + "\n").encode())
