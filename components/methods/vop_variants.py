"""VoP's enhanced variants under names of their own: :mod:`components.methods.vop` with other defaults.

VoP^P, VoP^C, VoP^F, VoP^{F+P} and VoP^{F+C} have the published numbers of prompts (4 of 8 specific; K^s = 8 of 12
layers). VoP^{P+C} and VoP^{F+P+C} are ours and not in the paper: 2 prompts of each specific kind and 4 generic ones.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from components import config
from components.methods.base import MethodSettings
from components.methods.vop import Prompts, VoP, VoPSettings


@dataclass(frozen=True, config=config.STRICT)
class PositionSettings(VoPSettings):
    """VoP^P: 4 generic and 4 position-specific prompts."""

    position_prompts: Prompts = 4


@dataclass(frozen=True, config=config.STRICT)
class ContextSettings(VoPSettings):
    """VoP^C: 4 generic and 4 context-specific prompts."""

    context_prompts: Prompts = 4


@dataclass(frozen=True, config=config.STRICT)
class FunctionSettings(VoPSettings):
    """VoP^F: joint space-time attention in the last third of the layers."""

    function_specific: bool = True


@dataclass(frozen=True, config=config.STRICT)
class FunctionPositionSettings(PositionSettings):
    """VoP^{F+P}: VoP^P, then joint layers."""

    function_specific: bool = True


@dataclass(frozen=True, config=config.STRICT)
class FunctionContextSettings(ContextSettings):
    """VoP^{F+C}: VoP^C, then joint layers."""

    function_specific: bool = True


@dataclass(frozen=True, config=config.STRICT)
class PositionContextSettings(VoPSettings):
    """VoP^{P+C}, ours: 4 generic, 2 position-specific and 2 context-specific prompts."""

    position_prompts: Prompts = 2
    context_prompts: Prompts = 2


@dataclass(frozen=True, config=config.STRICT)
class FunctionPositionContextSettings(PositionContextSettings):
    """VoP^{F+P+C}, ours: VoP^{P+C}, then joint layers."""

    function_specific: bool = True


class VoPPosition(VoP):
    """VoP^P."""

    name: ClassVar[str] = "vop_p"
    Settings: ClassVar[type[MethodSettings]] = PositionSettings


class VoPContext(VoP):
    """VoP^C."""

    name: ClassVar[str] = "vop_c"
    Settings: ClassVar[type[MethodSettings]] = ContextSettings


class VoPFunction(VoP):
    """VoP^F."""

    name: ClassVar[str] = "vop_f"
    Settings: ClassVar[type[MethodSettings]] = FunctionSettings


class VoPFunctionPosition(VoP):
    """VoP^{F+P}."""

    name: ClassVar[str] = "vop_fp"
    Settings: ClassVar[type[MethodSettings]] = FunctionPositionSettings


class VoPFunctionContext(VoP):
    """VoP^{F+C}."""

    name: ClassVar[str] = "vop_fc"
    Settings: ClassVar[type[MethodSettings]] = FunctionContextSettings


class VoPPositionContext(VoP):
    """VoP^{P+C}, ours."""

    name: ClassVar[str] = "vop_pc"
    Settings: ClassVar[type[MethodSettings]] = PositionContextSettings


class VoPFunctionPositionContext(VoP):
    """VoP^{F+P+C}, ours."""

    name: ClassVar[str] = "vop_fpc"
    Settings: ClassVar[type[MethodSettings]] = FunctionPositionContextSettings
