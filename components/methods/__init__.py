"""The registry of methods; a new one is a file here and a line below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.plugins import Registry

if TYPE_CHECKING:
    from components.methods.base import Method

METHODS: Registry[type[Method]] = Registry("method")
METHODS.register("zero_shot", "components.methods.zero_shot:ZeroShot")
METHODS.register("full", "components.methods.full:Full")
METHODS.register("vop", "components.methods.vop:VoP")
METHODS.register("mv_adapter", "components.methods.mv_adapter:MVAdapter")
