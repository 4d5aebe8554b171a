"""One small typed registry for everything that can be added to the project: methods, benchmarks, decoders.

Entries are ``"package.module:Name"`` strings and are imported on first use, so naming a plug-in costs nothing
and a stage loads only the code it runs.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator
from typing import Generic, TypeVar, cast

from components.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to lazily imported objects of one kind.

    Args:
        kind: singular noun for messages, such as ``method``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._targets: dict[str, str] = {}

    def register(self, name: str, target: str) -> None:
        """Adds ``name`` for ``"package.module:Attribute"``; a second target under one name is refused.

        Raises:
            ConfigError: the name is taken or the target has no colon.
        """
        if ":" not in target:
            raise ConfigError(f"{self.kind} target is not 'module:Name'", where=name, found=target)
        if self._targets.get(name, target) != target:
            raise ConfigError(f"{self.kind} name is taken", where=name, found=target, expected=self._targets[name])
        self._targets[name] = target

    def get(self, name: str, where: object = None) -> T:
        """The object registered under ``name``.

        Raises:
            ConfigError: no such name; the message lists what exists and the nearest spelling.
        """
        module, _, attribute = self.target(name, where).partition(":")
        return cast(T, getattr(importlib.import_module(module), attribute))

    def target(self, name: str, where: object = None) -> str:
        """``"package.module:Attribute"`` of ``name``, not imported: for other processes, which have no plug-ins
        but those registered at import.

        Raises:
            ConfigError: no such name; the message lists what exists and the nearest spelling.
        """
        if name not in self._targets:
            near = difflib.get_close_matches(name, self._targets, n=1)
            raise ConfigError(
                f"unknown {self.kind}",
                where=where,
                found=name,
                expected="one of " + ", ".join(sorted(self._targets)),
                cure=f"did you mean {near[0]!r}?" if near else None,
            )
        return self._targets[name]

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)
