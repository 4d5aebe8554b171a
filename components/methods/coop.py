"""CoOp: a learned context before the words, in the text tower only (Zhou et al., IJCV 2022).

``[SOS, V_1 .. V_M, words, EOS]`` at the input. The context takes M of the text tower's positions, so words + M must fit
its context length, and it runs through all layers. 64 tokens are the 0.033 M of Cross-Modal Adapter's comparison on
ViT-B/32 (32,768). CoOp's default is 16.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from components.backbones.hooks import Hooks
from components.config import STRICT
from components.errors import ConfigError
from components.methods.base import Method, TrainedSettings
from components.methods.prompts import KeptPrompts


@dataclass(frozen=True, config=STRICT)
class CoOpSettings(TrainedSettings):
    """The learned context.

    Attributes:
        prompts: M, the number of context tokens.
        init_std: Standard deviation of their normal initialisation.
    """

    prompts: Annotated[int, Field(ge=1, le=256)] = 16
    init_std: Annotated[float, Field(gt=0)] = 0.02


class CoOp(Method[CoOpSettings]):
    """A learned context in the text tower."""

    starts_as_identity = False

    def setup(self) -> None:
        spec, settings = self.spec, self.settings
        if self.words + settings.prompts > spec.context_length:
            raise ConfigError(
                "words and learned context do not fit the text tower",
                where=f"methods.{self.name}.prompts",
                found=f"{self.words} words + {settings.prompts} prompts",
                expected=f"at most {spec.context_length}",
                cure="use fewer words (`words` of the task) or prompts",
            )
        self.prompts = nn.Parameter(torch.randn(settings.prompts, spec.text_width) * settings.init_std)

    def text_hooks(self) -> Hooks:
        return KeptPrompts(self.prompts, positions=True)
