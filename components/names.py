"""Names in params.yaml that plug-ins define: they are checked with all other settings, and no plug-in is imported."""

from __future__ import annotations

from typing import Any

from components.benchmarks import BENCHMARKS
from components.ingest.decoders import DECODERS
from components.methods.entries import canonical, targets
from components.params import NameChecks


def _benchmark(key: str, value: Any) -> None:
    if isinstance(value, str):
        BENCHMARKS.target(value)


def _decoder(key: str, value: Any) -> None:
    if isinstance(value, str):
        DECODERS.target(value)


def _method(label: str, value: Any) -> None:
    if isinstance(value, dict):
        targets(canonical(label, value)[0])


NAMES: NameChecks = {"tasks.*.benchmark": _benchmark, "frames.decoder": _decoder, "methods.*": _method}
