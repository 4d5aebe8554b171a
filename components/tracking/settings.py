"""The ``tracking`` block of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT


@dataclass(frozen=True, config=STRICT)
class TrackingSettings:
    """What goes to MLflow and when a registry alias moves."""

    uri: str
    methods: tuple[str, ...]
    alias: str
    metric: str
    margin: Annotated[float, Field(ge=0)]
