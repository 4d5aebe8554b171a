"""CoOp: a learned context in front of the words, text tower alone (Zhou et al., IJCV 2022).

``[SOS, V_1 .. V_M, words, EOS]`` at the input; the context takes places of the text tower's positions, so words + M
must fit its context length, and runs through all layers. 64 tokens are the 0.033 M of Cross-Modal Adapter's comparison
on ViT-B/32 (32,768); CoOp's own default is 16.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from components import config
from components.backbones.clip import Backbone
from components.backbones.towers import Hooks
from components.errors import ConfigError
from components.methods.base import Method, MethodSettings, TrainedSettings
from components.methods.prompts import KeptPrompts


@dataclass(frozen=True, config=config.STRICT)
class CoOpSettings(TrainedSettings):
    """The learned context.

    Attributes:
        prompts: M, tokens of context.
        init_std: standard deviation of their normal initialisation.
    """

    prompts: Annotated[int, Field(ge=1, le=256)] = 16
    init_std: Annotated[float, Field(gt=0)] = 0.02


class CoOp(Method):
    """A learned context in the text tower."""

    name: ClassVar[str] = "coop"
    Settings: ClassVar[type[MethodSettings]] = CoOpSettings
    starts_as_identity = False

    def __init__(self, backbone: Backbone, settings: CoOpSettings, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        spec = backbone.spec
        if words + settings.prompts > spec.context_length:
            raise ConfigError(
                "words and learned context do not fit the text tower",
                where="methods.coop.prompts",
                found=f"{words} words + {settings.prompts} prompts",
                expected=f"at most {spec.context_length}",
                cure="fewer words (`words` of the task) or prompts",
            )
        self.prompts = nn.Parameter(torch.randn(settings.prompts, spec.text_width) * settings.init_std)

    def text_hooks(self) -> Hooks:
        return KeptPrompts(self.prompts, positions=True)
