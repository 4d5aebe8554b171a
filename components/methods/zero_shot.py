"""CLIP without any training: the mean of a video's frames is compared with texts.

The reference point of both papers, with CLIP4Clip's mean pooling.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from components.config import STRICT
from components.methods.base import Method, MethodSettings


@dataclass(frozen=True, config=STRICT)
class ZeroShotSettings(MethodSettings):
    """Nothing can be set."""


class ZeroShot(Method[ZeroShotSettings]):
    """The frozen backbone."""
