"""The registry of families of vision towers. A new family is a file in this folder and a line below.

A family is a function of open_clip's vision tower and the model's name. It returns a
:class:`components.backbones.towers.VisionTower` over the same parameters, or raises
:func:`components.backbones.scope.unsupported`. Text towers of all families are open_clip's
(:mod:`components.backbones.texts`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from components.plugins import Registry

FAMILIES: Registry[Callable[..., Any]] = Registry("backbone")
FAMILIES.register("clip", "components.backbones.families.clip:vision_tower")
FAMILIES.register("timm_vit", "components.backbones.families.timm_vit:vision_tower")
FAMILIES.register("timm_eva", "components.backbones.families.timm_eva:vision_tower")
# Builds a timm tower of any size. A name and no import, so that plain CLIP does not depend on it.
TIMM_VISUAL = "components.backbones.families.timm:TimmVisual"

# What a timm model's name begins with, and its family.
_TIMM = {"vit_pe_core_": "timm_eva", "eva": "timm_eva", "vit_": "timm_vit"}


def family_of(config: Mapping[str, Any]) -> str | None:
    """The family of an open_clip model config. None if no family has such a tower.

    A config may name its family, also one from outside the project, under ``family``.
    """
    if "family" in config:
        return str(config["family"])
    vision = config.get("vision_cfg", {})
    name = vision.get("timm_model_name")
    if not name:
        return None if isinstance(vision.get("layers"), list | tuple) else "clip"
    return next((family for prefix, family in _TIMM.items() if name.startswith(prefix)), None)
