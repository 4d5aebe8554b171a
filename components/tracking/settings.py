"""The ``tracking`` block of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT


@dataclass(frozen=True, config=STRICT)
class TrackingSettings:
    """What goes to MLflow, and when a registry alias moves.

    Attributes:
        uri: The store's URI. A relative SQLite path starts from the project's folder.
        methods: The methods to register.
        alias: The champion's alias.
        metric: The validation metric that decides, such as ``t2v_R@1``.
        margin: A challenger must be better by more points than this.
    """

    uri: str
    methods: tuple[str, ...]
    alias: str
    metric: str
    margin: Annotated[float, Field(ge=0)]
