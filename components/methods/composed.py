"""Several methods in one model, such as VoP's prompts and MV-Adapter. They act on different places of a block.

``method: [vop, mv_adapter]`` in params.yaml. Hooks act in the order of the list. Each part has its settings and its
learning rate. Two parts cannot train the same parameters of the backbone. At most one can replace the pooling of
frames. Parts that put prompts into one tower keep separate places there, and other parts act on CLIP's tokens only. A
part that reads its tower by column numbers (VoP's released text layout) allows no other prompts in that tower. A part
that merges tokens (TempMe) goes together only with parts that treat all tokens of that tower alike. A part that trains
with captions of frames (DiscoVLA with ``captions: true``) is trained alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.backbones.hooks import Chain, Hooks
from components.config import STRICT
from components.errors import ConfigError
from components.methods.base import Method, MethodSettings
from components.methods.build import build, method_class, read_settings


@dataclass(frozen=True, config=STRICT)
class ComposedSettings(MethodSettings):
    """The settings of the parts and of the whole model.

    Attributes:
        parts: The settings of each method, by name.
        train_logit_scale: Whether the logit scale trains too, at the first part's learning rate.
        lr: The learning rate of parts that set none.
    """

    parts: dict[str, dict[str, Any]]
    train_logit_scale: bool = False
    lr: float | None = Field(default=None, gt=0)

    @classmethod
    def expand(cls, name: str, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Checks the settings of each part and fills in their defaults, ``lr`` among them."""
        parts, lr = raw.get("parts"), raw.get("lr")
        if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
            raise ConfigError("parts are not settings by method", where=where, found=parts)
        checked = {}
        for part, settings in parts.items():
            # A method that trains nothing has no learning rate.
            takes = lr is not None and any(field.name == "lr" for field in fields(method_class(part, where).Settings))
            shared = {"lr": lr} if takes else {}
            checked[part] = asdict(read_settings(part, {**shared, **settings}, f"{where}.{part}"))
        return {**raw, "parts": checked}


class Composed(Method[ComposedSettings]):
    """Methods on one backbone."""

    def setup(self) -> None:
        if self.settings.train_logit_scale:
            self.train_logit_scale()
        self._check_scale()
        parts: dict[str, Method] = {}
        trained: set[str] = set()
        for name, raw in self.settings.parts.items():
            part = build(name, raw, self.backbone, frames=self.frames, words=self.words, where=f"{self.name}.{name}")
            both = trained & part.tuned(self.backbone)
            if both:
                raise ConfigError(
                    "two parts train the same weights of the backbone", where=self.name, found=sorted(both)[:3]
                )
            trained |= part.tuned(self.backbone)
            # The backbone belongs to the whole model, so names in an adapter file do not depend on the part.
            self.backbone = part.backbone
            parts[_key(name)] = part
        self.parts = nn.ModuleDict(parts)
        for part in parts.values():
            part.backbone = self.backbone
        self.temporal = any(part.temporal for part in parts.values())
        self.starts_as_identity = all(part.starts_as_identity for part in parts.values())
        self._check_captions()
        pooling = [part for part in parts.values() if part.pools_itself]
        if len(pooling) > 1:
            raise ConfigError(
                "two parts replace the pooling of frames", where=self.name, found=[part.name for part in pooling]
            )
        self.pools_itself = bool(pooling)
        for part in pooling:
            self.video_width, self.text_width, self.similarity = part.video_width, part.text_width, part.similarity
        vision = [part.vision_hooks() for part in parts.values()]
        self._check_tokens("vision", vision)
        self._check_readout(vision)
        self._check_tokens("text", [part.text_hooks() for part in parts.values()])

    def _check_tokens(self, tower: str, hooks: list[Hooks]) -> None:
        """Refuses parts that do not go together in a tower: where one must be alone, or merges what another needs."""
        merging = [part.name for part, found in zip(self.members(), hooks, strict=True) if found.merges_tokens]
        looking = [part.name for part, found in zip(self.members(), hooks, strict=True) if not found.token_wise]
        if merging and len(looking) > 1:
            raise ConfigError(
                f"{merging[0]} merges tokens of the {tower} tower, and another part needs the frames or patches there",
                where=self.name,
                found=looking,
                cure=f"leave one of them out (lora, the bottleneck adapters and seq_transf go with {merging[0]})",
            )
        adding = [(part, found) for part, found in zip(self.members(), hooks, strict=True) if found.adds_tokens]
        alone = [found.alone for _, found in adding if found.alone]
        if alone and len(adding) > 1:
            raise ConfigError(
                f"two parts put tokens into the {tower} tower, and one must be alone there: {alone[0]}",
                where=self.name,
                found=[part.name for part, _ in adding],
                cure="leave one of them out, or set text_layout: paper" if tower == "text" else "leave one of them out",
            )

    def _check_readout(self, hooks: list[Hooks]) -> None:
        """Refuses a part that trains what no other part reads."""
        reading = [part.name for part, found in zip(self.members(), hooks, strict=True) if found.reads_prompt]
        whole = [
            part.name
            for part, found in zip(self.members(), hooks, strict=True)
            if not found.reads_prompt and (found.whole_last_layer or part.needs_class_token)
        ]
        if reading and whole:
            raise ConfigError(
                "one part reads a prompt out of the vision tower, and the other trains the class tokens after its last "
                "layer, which nothing reads then",
                where=self.name,
                found=[*reading, *whole],
                cure="leave one of them out",
            )

    def _check_captions(self) -> None:
        """Refuses a part whose loss needs its own frames and captions, without what other parts do to them."""
        for part in self.members():
            if part.caption_loss is not None:
                raise ConfigError(
                    "a part trains with captions of frames, and its losses are right only for the method alone",
                    where=f"{self.name}.{part.name}.captions",
                    found=True,
                    expected="false in a model of several methods",
                    cure=f"set captions: false, or train {part.name} alone",
                )

    def _check_scale(self) -> None:
        for name, raw in self.settings.parts.items():
            if raw.get("train_logit_scale"):
                raise ConfigError(
                    "the logit scale belongs to the whole model",
                    where=f"{self.name}.{name}.train_logit_scale",
                    cure="set train_logit_scale next to the parts",
                )

    def members(self) -> list[Method]:
        """The parts, in order."""
        return [part for part in self.parts.values() if isinstance(part, Method)]

    def learning_rates(self) -> dict[str, float]:
        rates: dict[str, float] = {}
        of_backbone: dict[str, float] = {}
        for key, part in zip(self.parts, self.members(), strict=True):
            tuned = {f"backbone.{name}" for name in part.tuned(self.backbone)}
            for name, lr in part.learning_rates().items():
                rates[f"parts.{key}.{name}"] = lr
                if name in tuned:
                    of_backbone[name] = lr
        # Only the logit scale belongs to no part.
        first = next(iter(rates.values()), 0.0)
        rates |= of_backbone
        return {name: rates.get(name, first) for name in self.trainable()}

    def vision_hooks(self) -> Hooks:
        return Chain([part.vision_hooks() for part in self.members()])

    def text_hooks(self) -> Hooks:
        return Chain([part.text_hooks() for part in self.members()])

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        for part in self.members():
            if part.pools_itself:
                return part.pool(features, mask)
        return super().pool(features, mask)

    def text_embedding(self, tokens: Tensor, hooks: Hooks) -> Tensor:
        for part in self.members():
            if part.pools_itself:
                return part.text_embedding(tokens, hooks)
        return super().text_embedding(tokens, hooks)


def _key(name: str) -> str:
    """A part's name inside parameter names. Dots separate modules there, so a slash replaces them."""
    return name.replace(".", "/")
