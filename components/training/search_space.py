"""Search spaces: which settings a search over settings varies, and between which values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components import config
from components.errors import ConfigError
from components.training.job import Job

_RANGE = re.compile(r"(?P<low>[^,]+?)\.\.(?P<high>[^,]+)")


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds. Whole numbers are drawn uniformly, others uniformly in their logarithm."""

    low: float
    high: float
    whole: bool

    def holds(self, value: object) -> bool:
        """Whether ``value`` can be drawn."""
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    def holds(self, value: object) -> bool:
        """Whether ``value`` can be drawn."""
        return value in self.values


# The values that are tried for a dotted key of params.yaml.
Space = dict[str, Range | Choice]


def parse_space(items: Sequence[str], method: str) -> Space:
    """Reads ``key=low..high`` and ``key=a,b,c``. A key without a dot is one of the method's settings.

    Raises:
        ConfigError: An item has another form, or its bounds are not a range.
    """
    space: Space = {}
    for item in items:
        key, sep, text = item.partition("=")
        if not sep or not key or not text:
            raise ConfigError("not a search space", where="--search", found=item, expected="key=low..high or key=a,b,c")
        key = key if "." in key else f"methods.{method}.{key}"
        space[key] = _parse_values(text, f"--search {key}")
    return space


def _parse_values(text: str, where: str) -> Range | Choice:
    match = _RANGE.fullmatch(text)
    if match is None:
        return Choice(tuple(config.parse_yaml(part, where) for part in text.split(",")))
    low, high = (config.parse_yaml(match[name], where) for name in ("low", "high"))
    if _is_number(low) and _is_number(high) and low < high:
        whole = isinstance(low, int) and isinstance(high, int)
        # Fractions are drawn in their logarithm.
        if whole or low > 0:
            return Range(low, high, whole)
    raise ConfigError("not a range", where=where, found=text, expected="low..high, low < high, fractions above 0")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def default_space(job: Job) -> Space:
    """The learning rate, within a factor of ten of its value in params.yaml.

    Raises:
        ConfigError: The method has no learning rate.
    """
    lr = job.raw.get("lr")
    if lr is None:
        raise ConfigError(
            "nothing to search by default", where=f"methods.{job.method}", expected="--search key=low..high"
        )
    return {f"methods.{job.method}.lr": Range(lr / 10, lr * 10, whole=False)}


def start_values(job: Job, space: Space) -> dict[str, Any]:
    """The method's settings in params.yaml that the space holds. The first trial uses them."""
    prefix = f"methods.{job.method}."
    found = {}
    for key, values in space.items():
        value = job.raw.get(key.removeprefix(prefix)) if key.startswith(prefix) else None
        if values.holds(value):
            found[key] = value
    return found
