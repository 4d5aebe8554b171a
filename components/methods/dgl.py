"""DGL: prompts of both towers from one source, and global-local attention (Yang et al., AAAI 2024, arXiv 2401.10588).

Each vision layer has P prompts per frame, and :mod:`components.methods.global_local` adds G prompts per video. The
text prompts ``[SOS, prompts, words, EOS]`` of a layer and its frame prompts come from one source (``generator``):

``linear``
    Trained frame prompts, which all frames share. A linear map makes text prompts of them.
``transformer``
    Trained embeddings of 2 P text prompts and of P prompts for each frame number. One transformer block runs over those
    of a layer. An MLP maps the text prompts to the text tower's width.

The paper counts prompts before and after the words, and its code puts the second half after the padding. In CLIP's
causal text tower the end token sees nothing that comes after it, so the map of that half never learns: 393,728 of the
printed 0.83 M (827,392 on ViT-B/32). By default this half is left out, which computes what the authors' code does, with
433,664 scalars. ``postfix: true`` puts it after the start token too. ``transformer`` has the printed 9.57 M (9,575,168)
either way, since all its embeddings attend to each other.

The released code with random weights gives the same features, as a test shows. The block's initialisation is that of
the other blocks here. The attention's mask takes ``T * L`` squared bytes (5.8 MB with 12 frames of ViT-B/16), times the
number of videos if some have padding.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.backbones.hooks import Flow, Hooks
from components.backbones.towers import quick_gelu
from components.config import STRICT
from components.errors import ConfigError
from components.methods.base import Method, TrainedSettings, mean_pool
from components.methods.global_local import GlobalLocal
from components.methods.parts import Block
from components.methods.prompts import LayerPrompts

Prompts = Annotated[int, Field(ge=1, le=256)]


@dataclass(frozen=True, config=STRICT)
class DGLSettings(TrainedSettings):
    """Numbers and source of the prompts.

    Attributes:
        generator: The source of frame prompts and text prompts, see the module.
        frame_prompts: P, prompts per frame and layer. The text tower has as many per layer.
        global_prompts: G, prompts per video.
        postfix: Whether the second half of the text prompts is used, after the start token too.
    """

    generator: Literal["linear", "transformer"] = "linear"
    frame_prompts: Prompts = 4
    global_prompts: Prompts = 4
    postfix: bool = False


class DGL(Method[DGLSettings]):
    """Prompts of both towers from one source, read out at a prompt of the video."""

    starts_as_identity = False
    pools_itself = True
    needs_class_token = True

    def setup(self) -> None:
        spec, settings = self.spec, self.settings
        if spec.text_layers > spec.vision_layers:
            raise ConfigError(
                "the text tower has more layers than the vision tower, whose prompts it shares",
                where=f"methods.{self.name} on {spec.model}",
                found=spec.text_layers,
                expected=f"at most {spec.vision_layers}",
            )
        self.temporal = settings.generator == "transformer"
        # Xavier's bound for a patch embedding, as in VPT.
        bound = (6 / (3 * spec.patch_size**2 + spec.vision_width)) ** 0.5
        self.global_prompts = nn.Parameter(
            torch.empty(settings.global_prompts, spec.vision_width).uniform_(-bound, bound)
        )
        sizes = (spec.vision_layers, settings.frame_prompts, spec.vision_width, spec.text_width)
        self.source: Linear | Shared
        if settings.generator == "linear":
            self.source = Linear(*sizes, bound=bound, postfix=settings.postfix)
        else:
            self.source = Shared(*sizes, frames=self.frames, postfix=settings.postfix)

    def vision_hooks(self) -> Hooks:
        return _FramePrompts(self.source.of_frames(), self.global_prompts)

    def text_hooks(self) -> Hooks:
        layers = self.spec.text_layers
        return LayerPrompts(self.source.of_texts()[:layers], range(layers))

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        return mean_pool(features[:, :1], mask[:, :1])


class _FramePrompts(GlobalLocal):
    """Frame prompts ``float[K_v, T or 1, P, D]``."""

    def __init__(self, prompts: Tensor, global_prompts: Tensor) -> None:
        super().__init__(global_prompts)
        self.prompts = prompts

    def frame_prompts(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        return self.prompts[i, : flow.frames].unsqueeze(0)


class Linear(nn.Module):
    """Frame prompts and linear maps of them."""

    def __init__(self, layers: int, prompts: int, width: int, text_width: int, *, bound: float, postfix: bool) -> None:
        super().__init__()
        self.prompts = nn.Parameter(torch.empty(layers, prompts, width).uniform_(-bound, bound))
        self.prefix = nn.Linear(width, text_width)
        self.postfix = nn.Linear(width, text_width) if postfix else None

    def of_frames(self) -> Tensor:
        """``float[K_v, 1, P, D_v]``."""
        return self.prompts.unsqueeze(1)

    def of_texts(self) -> Tensor:
        """``float[K_v, P or 2 P, D_t]``."""
        halves = [self.prefix(self.prompts)]
        if self.postfix is not None:
            halves.append(self.postfix(self.prompts))
        return torch.cat(halves, dim=1)


class Shared(nn.Module):
    """Embeddings of text prompts and frame prompts, through one transformer block."""

    def __init__(self, layers: int, prompts: int, width: int, text_width: int, *, frames: int, postfix: bool) -> None:
        super().__init__()
        self.shape, self.used = (frames, prompts), prompts * (1 + postfix)
        self.prompts = nn.Parameter(torch.randn(layers, prompts * (2 + frames), width))
        self.block = Block(width, max(1, width // 64))
        self.fc, self.proj = nn.Linear(width, 2 * width), nn.Linear(2 * width, text_width)

    def of_frames(self) -> Tensor:
        """``float[K_v, T, P, D_v]``."""
        return self.block(self.prompts)[:, 2 * self.shape[1] :].unflatten(1, self.shape)

    def of_texts(self) -> Tensor:
        """``float[K_v, P or 2 P, D_t]``."""
        texts: Tensor = self.proj(quick_gelu(self.fc(self.block(self.prompts)[:, : self.used])))
        return texts
