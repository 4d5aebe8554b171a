"""The registry of what can be added to the project: methods, benchmarks, decoders and captioners.

A plug-in is found under one of three kinds of name:

* a name of the project, such as ``vop``, registered next to the plug-ins
* a name that an installed package declares as an entry point, in the group ``reeltune.methods``,
  ``reeltune.benchmarks``, ``reeltune.decoders`` or ``reeltune.captioners``
* the object itself, written ``"package.module:Attribute"``

Nothing is imported before :meth:`Registry.get`. A name costs nothing, and a stage loads only the code that it runs.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Generic, TypeVar, cast

from components.errors import ConfigError

T = TypeVar("T")

TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class Registry(Generic[T]):
    """Maps names to lazily imported objects of one kind.

    Args:
        kind: A singular noun for messages, such as ``method``. Its plural ends the name of the entry point group.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._targets: dict[str, str] = {}

    def register(self, name: str, target: str) -> None:
        """Adds ``name`` for ``"package.module:Attribute"``. Adding the same pair again changes nothing.

        Raises:
            ConfigError: The name has another target already, or the target has another form.
        """
        if not TARGET.fullmatch(target):
            raise ConfigError(f"{self.kind} target is not 'module:Name'", where=name, found=target)
        if self._targets.get(name, target) != target:
            raise ConfigError(f"{self.kind} name is taken", where=name, found=target, expected=self._targets[name])
        self._targets[name] = target

    def get(self, name: str, where: object = None) -> T:
        """Imports the object that ``name`` means.

        Args:
            name: Any of the three kinds of name.
            where: The place of the name, for messages.

        Raises:
            ConfigError: The name is unknown, its module is not installed, or the module lacks the object. The message
                says what is there, or what to install.
        """
        target = self.target(name, where)
        module_name, _, attribute = target.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            package = (error.name or module_name).partition(".")[0]
            raise ConfigError(
                f"{self.kind} {target!r} cannot be imported", where=where, cure=_cure(package, error.name)
            ) from error
        if not hasattr(module, attribute):
            near = difflib.get_close_matches(attribute, vars(module), n=1)
            raise ConfigError(
                f"{self.kind} is not in its module",
                where=where,
                found=target,
                expected=f"an attribute of {module.__file__ or module_name}",
                cure=f"did you mean {near[0]!r}?" if near else None,
            )
        return cast(T, getattr(module, attribute))

    def target(self, name: str, where: object = None) -> str:
        """Finds ``"package.module:Attribute"`` for ``name`` without an import.

        Other processes need this form, since they know only the names that are registered at import.

        Raises:
            ConfigError: The name is unknown, or two packages use it. For an unknown name, the message lists the known
                names and the nearest spelling.
        """
        found = {target for target in (self._targets.get(name), *self._installed().get(name, ())) if target is not None}
        if not found and TARGET.fullmatch(name):
            return name
        if len(found) > 1:
            raise ConfigError(
                f"{self.kind} name is taken by several packages",
                where=where,
                found=name,
                expected="one target instead of " + ", ".join(sorted(found)),
                cure="write the target you mean in place of the name",
            )
        if not found:
            known = self.names()
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"unknown {self.kind}",
                where=where,
                found=name,
                expected="one of " + ", ".join(known),
                cure=f"did you mean {near[0]!r}?" if near else None,
            )
        target = found.pop()
        if not TARGET.fullmatch(target):
            raise ConfigError(
                f"entry point of the {self.kind} {name!r} is not usable",
                where=where,
                found=target,
                expected="'package.module:Name'",
            )
        return target

    def names(self) -> list[str]:
        """Lists the registered names and those of entry points, sorted."""
        return sorted({*self._targets, *self._installed()})

    def _installed(self) -> dict[str, tuple[str, ...]]:
        return _entry_points(f"reeltune.{self.kind}s")

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)


@functools.cache
def _entry_points(group: str) -> dict[str, tuple[str, ...]]:
    """Targets by name. Read once per process, since the search through all installed packages takes 30 ms."""
    found: dict[str, tuple[str, ...]] = {}
    for point in metadata.entry_points(group=group):
        # Extras, such as `package.module:Name [extra]`, do not change what is imported.
        target = point.value.partition("[")[0].replace(" ", "")
        found[point.name] = (*found.get(point.name, ()), target)
    return found


def _cure(package: str, module: str | None) -> str:
    if importlib.util.find_spec(package) is not None:
        return f"the installed {package!r} has no module {module!r}: correct the name or install another version"
    return f"install the package that provides {package!r}, or put its folder on PYTHONPATH"
