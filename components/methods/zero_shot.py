"""CLIP as it is: mean-pooled frames against texts, nothing trained.

The reference point of both papers, with CLIP4Clip's mean pooling.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from components import config
from components.methods.base import Method, MethodSettings


@dataclass(frozen=True, config=config.STRICT)
class ZeroShotSettings(MethodSettings):
    """Nothing to set."""


class ZeroShot(Method):
    """The frozen backbone."""

    name: ClassVar[str] = "zero_shot"
    Settings: ClassVar[type[MethodSettings]] = ZeroShotSettings
