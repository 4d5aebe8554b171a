"""Workers run exactly the driver's code: its folder comes first on their import path, and they compare its hash."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from components.errors import ReelTuneError

R = TypeVar("R")

# Begins the message of a worker that refuses to run.
REFUSAL = "this worker has other code than the driver"


def import_root() -> Path:
    """The folder from which this process imports the project."""
    return Path(__file__).resolve().parents[1]


def on_worker(function: Callable[..., R]) -> Callable[..., R]:
    """``function`` for a process of Ray, which first checks that its code is the driver's.

    Ray sends a module's function by name, so another checkout would run without a word. What this returns is sent as
    code, and imports the function after the check.

    Args:
        function: A function of a module.
    """
    hash_of = _hasher()
    expected, module, name, refusal = _package_hash(), function.__module__, function.__qualname__, REFUSAL

    def checked(*args: Any, **kwargs: Any) -> R:
        import importlib
        import importlib.util
        import socket

        spec = importlib.util.find_spec("components")
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        if not places or hash_of(places[0]) != expected:
            raise RuntimeError(f"{refusal}: {socket.gethostname()}:{places[0] if places else 'not installed'} ")
        result: R = getattr(importlib.import_module(module), name)(*args, **kwargs)
        return result

    checked.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # Ray looks at the arguments
    return checked


def refused(error: BaseException) -> ReelTuneError | None:
    """The error for the user if a worker refused to run, else None."""
    _, found, rest = str(error).partition(f"{REFUSAL}: ")
    if not found:
        return None
    return ReelTuneError(
        REFUSAL,
        where=rest.split()[0],
        expected=f"the code in {import_root() / 'components'}",
        cure="install the same version on every node, or send it with `ray job submit --working-dir`",
    )


@functools.cache
def _package_hash() -> str:
    return _hasher()(str(import_root() / "components"))


def _hasher() -> Callable[[str], str]:
    """A function that hashes the source of a package. It is nested, so that it is sent as code."""

    def hash_of(folder: str) -> str:
        import hashlib
        from pathlib import Path

        digest = hashlib.sha256()
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()

    return hash_of
