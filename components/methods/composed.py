"""Several methods in one model, such as VoP's prompts and MV-Adapter: they act on different places of a block.

``method: [vop, mv_adapter]`` in params.yaml. Hooks act in the order of the list. Each part has its own settings and
learning rate; what a part trains of the backbone no other part may train, and at most one may pool frames its own way.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components import config
from components.backbones.clip import Backbone
from components.backbones.towers import Chain, Hooks
from components.errors import ConfigError
from components.methods.base import Method, MethodSettings
from components.methods.build import build, read_settings


@dataclass(frozen=True, config=config.STRICT)
class ComposedSettings(MethodSettings):
    """The parts and what belongs to the whole.

    Attributes:
        parts: registered name to the settings of that method.
        train_logit_scale: whether the factor on the cosine trains too, at the first part's learning rate.
    """

    parts: dict[str, dict[str, Any]]
    train_logit_scale: bool = False
    lr: float | None = Field(default=None, gt=0)

    @classmethod
    def expand(cls, raw: dict[str, Any], where: str) -> dict[str, Any]:
        """Checks each part; ``lr`` beside the parts is the default of all."""
        parts, lr = raw.get("parts"), raw.get("lr")
        if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
            raise ConfigError("parts are not settings by method", where=where, found=parts)
        shared = {} if lr is None else {"lr": lr}
        checked = {
            name: asdict(read_settings(name, {**shared, **own}, f"{where}.{name}")) for name, own in parts.items()
        }
        return {**raw, "parts": checked}


class Composed(Method):
    """Methods on one backbone."""

    name = "composed"
    Settings: ClassVar[type[MethodSettings]] = ComposedSettings

    def __init__(self, backbone: Backbone, settings: ComposedSettings, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        self.name = "+".join(settings.parts)  # type: ignore[misc]
        self._check(settings)
        parts: dict[str, Method] = {}
        trained: set[str] = set()
        for name, raw in settings.parts.items():
            part = build(name, raw, self.backbone, frames=frames, words=words)
            both = trained & part.tuned(self.backbone)
            if both:
                raise ConfigError(
                    "two parts train the same weights of the backbone", where=self.name, found=sorted(both)[:3]
                )
            trained |= part.tuned(self.backbone)
            # Registered first here, so names in an adapter file do not depend on which part trains what.
            self.backbone = part.backbone
            parts[_key(name)] = part
        self.parts = nn.ModuleDict(parts)
        for part in parts.values():
            part.backbone = self.backbone
        self.temporal = any(part.temporal for part in parts.values())
        self.starts_as_identity = all(part.starts_as_identity for part in parts.values())
        pooling = [name for name, part in parts.items() if part.pools_itself]
        if len(pooling) > 1:
            raise ConfigError("two parts pool frames their own way", where=self.name, found=pooling)
        self._pooling = pooling[0] if pooling else None

    def _check(self, settings: ComposedSettings) -> None:
        for name, raw in settings.parts.items():
            if raw.get("train_logit_scale"):
                raise ConfigError(
                    "the factor on the cosine is the whole model's",
                    where=f"{self.name}.{name}.train_logit_scale",
                    cure="set train_logit_scale beside the parts",
                )

    def members(self) -> list[Method]:
        """The parts, in order."""
        return [part for part in self.parts.values() if isinstance(part, Method)]

    def learning_rates(self) -> dict[str, float]:
        members = list(zip(self.settings.parts, self.members(), strict=True))
        own = {f"parts.{_key(name)}.{key}": lr for name, part in members for key, lr in part.learning_rates().items()}
        # Weights of the backbone stand under its name, whichever part trains them.
        own |= {
            key: lr for _, part in members for key, lr in part.learning_rates().items()
            if key.removeprefix("backbone.") in part.tuned(self.backbone)
        }  # fmt: skip
        first = next((lr for _, part in members for lr in part.learning_rates().values()), 0.0)
        return {name: own.get(name, first) for name in self.trainable()}

    def vision_hooks(self) -> Hooks:
        return Chain([part.vision_hooks() for part in self.members()])

    def text_hooks(self) -> Hooks:
        return Chain([part.text_hooks() for part in self.members()])

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        if self._pooling is None:
            return super().pool(features, mask)
        return self.members()[list(self.parts).index(self._pooling)].pool(features, mask)


def _key(name: str) -> str:
    """A part's name in the names of its parameters, where a dot would separate modules."""
    return name.replace(".", "_")
