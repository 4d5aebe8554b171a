"""Names in params.yaml, checked with all other settings: those of plug-ins, which are not imported, and the user's.

A task's name is part of paths, of commands and stages of DVC, and of queries of MLflow, where it is also the name of
the registered model. A method's name is part of the same paths and commands.
"""

from __future__ import annotations

import re
from typing import Any

from components.benchmarks import BENCHMARKS
from components.captions import CAPTIONERS
from components.errors import ConfigError
from components.ingest.decoders import DECODERS
from components.methods.entries import canonical, targets
from components.params import NameChecks


def _benchmark(key: str, value: Any) -> None:
    if isinstance(value, str):
        BENCHMARKS.target(value)


def _decoder(key: str, value: Any) -> None:
    if isinstance(value, str):
        DECODERS.target(value)


def _captioner(key: str, value: Any) -> None:
    if isinstance(value, str):
        CAPTIONERS.target(value)


# What names of folders and DVC stages, shell commands, keys such as `tasks.mine.frames` and MLflow all take.
PLAIN = re.compile(r"\w[\w-]*")
LONGEST = 100  # a folder is called <method>-<seed>, and most file systems take 255 bytes

# MLflow keeps these for itself.
RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)


def _check_name(name: str) -> None:
    if not PLAIN.fullmatch(name) or len(name) > LONGEST:
        raise ConfigError(
            "name cannot be used in paths, commands and MLflow",
            found=name,
            expected=f"letters, digits, _ and -, no - at the start, at most {LONGEST} characters",
            cure=f"call it {suggested!r}" if PLAIN.fullmatch(suggested := _plain(name)) else None,
        )


def _plain(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name).strip("-")[:LONGEST]


def _task(name: str, value: Any) -> None:
    _check_name(name)


def _alias(key: str, value: Any) -> None:
    if not isinstance(value, str):
        return
    _check_name(value)
    if RESERVED.fullmatch(value):
        raise ConfigError("MLflow keeps this alias for itself", found=value, expected="another name, such as champion")


def _method(label: str, value: Any) -> None:
    _check_name(label)
    if isinstance(value, dict):
        targets(canonical(label, value)[0])


NAMES: NameChecks = {
    "tasks.*": _task,
    "tasks.*.benchmark": _benchmark,
    "tasks.*.captions.captioner": _captioner,
    "frames.decoder": _decoder,
    "methods.*": _method,
    "tracking.alias": _alias,
}
