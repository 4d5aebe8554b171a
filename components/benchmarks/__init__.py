"""Readers of published annotation formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from components.plugins import Registry

if TYPE_CHECKING:
    from components.benchmarks.base import Manifest

# A reader: (task name, folder or URI of the collection, options from params.yaml) -> Manifest.
BENCHMARKS: Registry[Callable[[str, str, dict[str, Any]], Manifest]] = Registry("benchmark")
BENCHMARKS.register("msrvtt", "components.benchmarks.msrvtt:read")
BENCHMARKS.register("activitynet", "components.benchmarks.activitynet:read")
