"""VoP: prompts for text and video in every layer of a frozen CLIP (Huang et al., CVPR 2023, arXiv 2211.12764).

Each layer i of either tower gets fresh prompts, and what comes out at their places is thrown away before layer i+1::

    text    [ _ , W_i ]      = L^t_i([ P^t_{i-1}, W_{i-1} ])           P^t: float[K_t, P_t, D_t]
    vision  [ c_i, _ , E_i ] = L^v_i([ c_{i-1}, P^v_{i-1}, E_{i-1} ])  P^v: float[K_v, P_v, D_v]

Frames are embedded one by one and averaged, so their order cannot matter. Both forms of the method are here; vision is
the same in both (prompts carry no position; those of the first layer pass ``ln_pre``, as in the release):

``text_layout: paper``
    ``[SOS, P^t, words, EOS, padding]`` in every layer, read out at EOS. The words keep the positions that CLIP gave
    them and the prompts get none, so prompts cost no words of the context. (The paper does not say where SOS stands.)
``text_layout: released``
    As in the authors' inference code: ``[SOS, prefix, ... , suffix, last column]``, the suffix before the last *column*
    and not before EOS; the first layer's prompts are inserted before the position embedding is added and so get
    positions, and words + P_t must fit the context; read out at EOS + P_t, which for a text shorter than ``words``
    lies behind EOS when there is a suffix.
    The release averages normalised frames without normalising again; a cosine does not see the difference.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components import config
from components.backbones.clip import Backbone
from components.backbones.towers import Flow, Hooks
from components.errors import ConfigError
from components.methods.base import Method, MethodSettings, TrainedSettings

Prompts = Annotated[int, Field(ge=0, le=256)]


@dataclass(frozen=True, config=config.STRICT)
class VoPSettings(TrainedSettings):
    """Numbers and places of prompts.

    Attributes:
        video_prompts: P_v, prompts per layer of the vision tower; 0 leaves the tower alone.
        text_prompts: P_t, prompts per layer of the text tower; 0 leaves the tower alone.
        text_layout: where text prompts stand and what is read out, see the module.
        suffix_prompts: how many of the text prompts stand before the last column; only in the released layout, where
            None means half of them (the release's 4 of 8).
        init_std: standard deviation of the prompts' normal initialisation.
    """

    video_prompts: Prompts = 8
    text_prompts: Prompts = 8
    text_layout: Literal["paper", "released"] = "paper"
    suffix_prompts: Prompts | None = None
    init_std: Annotated[float, Field(gt=0)] = 0.02

    def __post_init__(self) -> None:
        if self.video_prompts + self.text_prompts == 0:
            raise ValueError("video_prompts and text_prompts are both 0: nothing would train (use zero_shot)")
        if self.text_layout == "paper" and self.suffix_prompts:
            raise ValueError("suffix_prompts needs text_layout: released")
        if (self.suffix_prompts or 0) > self.text_prompts:
            raise ValueError("suffix_prompts is more than text_prompts")

    @property
    def suffix(self) -> int:
        """Prompts before the last column."""
        if self.text_layout == "paper":
            return 0
        return self.text_prompts // 2 if self.suffix_prompts is None else self.suffix_prompts


class VoP(Method):
    """Base VoP."""

    name: ClassVar[str] = "vop"
    Settings: ClassVar[type[MethodSettings]] = VoPSettings
    starts_as_identity: ClassVar[bool] = False

    def __init__(self, backbone: Backbone, settings: VoPSettings, *, frames: int, words: int) -> None:
        super().__init__(backbone, settings, frames=frames, words=words)
        spec = backbone.spec
        if settings.text_layout == "released" and words + settings.text_prompts > spec.context_length:
            raise ConfigError(
                "words and text prompts do not fit the context",
                where="methods.vop.text_prompts",
                found=f"{words} words + {settings.text_prompts} prompts",
                expected=f"at most {spec.context_length}",
                cure="fewer words or prompts, or text_layout: paper",
            )
        self.video = _prompts(spec.vision_layers, settings.video_prompts, spec.vision_width, settings.init_std)
        self.text = _prompts(spec.text_layers, settings.text_prompts, spec.text_width, settings.init_std)

    def vision_hooks(self) -> Hooks:
        return super().vision_hooks() if self.video is None else VisionPrompts(self.video)

    def text_hooks(self) -> Hooks:
        if self.text is None:
            return super().text_hooks()
        if self.settings.text_layout == "paper":
            return PaperText(self.text)
        return ReleasedText(self.text, self.settings.suffix)


def _prompts(layers: int, count: int, width: int, std: float) -> nn.Parameter | None:
    return nn.Parameter(torch.randn(layers, count, width) * std) if count else None


class _Run(Hooks):
    """Prompts as one run behind the first token, put in for layer 0 by a subclass and exchanged at every later layer.

    Args:
        prompts: ``float[K, P, D]``.
    """

    def __init__(self, prompts: Tensor) -> None:
        self.prompts = prompts
        self.count = prompts.shape[1]

    def put(self, x: Tensor, flow: Flow) -> Tensor:
        """The first layer's prompts behind column 0; CLIP's own columns are noted in ``flow``."""
        columns = torch.arange(x.shape[1] + self.count, device=x.device)
        flow.own = torch.cat([columns[:1], columns[1 + self.count :]])
        return self.exchange(0, x, 1)

    def exchange(self, i: int, x: Tensor, rest: int) -> Tensor:
        """Layer ``i``'s prompts behind column 0, then the columns from ``rest`` on."""
        fresh = self.prompts[i].to(x.dtype).expand(x.shape[0], -1, -1)
        return torch.cat([x[:, :1], fresh, x[:, rest:]], dim=1)

    def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        return x if i == 0 else self.exchange(i, x, 1 + self.count)


class VisionPrompts(_Run):
    """``[CLS, P^v, patches]``; in the first layer before ``ln_pre``, without positions."""

    def after_positions(self, x: Tensor, flow: Flow) -> Tensor:
        return self.put(x, flow)


class PaperText(_Run):
    """``[SOS, P^t, words]``; the words have their positions before the first prompts come in."""

    def after_positions(self, x: Tensor, flow: Flow) -> Tensor:
        if flow.readout is not None:
            flow.readout = flow.readout + self.count
        return self.put(x, flow)


class ReleasedText(Hooks):
    """``[SOS, prefix, ..., suffix, last column]``; see the module.

    Args:
        prompts: ``float[K, P_t, D_t]``, the prefix first.
        suffix: how many of them stand before the last column.
    """

    whole_text = True

    def __init__(self, prompts: Tensor, suffix: int) -> None:
        self.prompts = prompts
        self.prefix, self.suffix = prompts.shape[1] - suffix, suffix

    def _insert(self, i: int, first: Tensor, middle: Tensor, last: Tensor) -> Tensor:
        fresh = self.prompts[i].to(first.dtype).expand(first.shape[0], -1, -1)
        return torch.cat([first, fresh[:, : self.prefix], middle, fresh[:, self.prefix :], last], dim=1)

    def before_positions(self, x: Tensor, flow: Flow) -> Tensor:
        total = x.shape[1] + self.prefix + self.suffix
        columns = torch.arange(total, device=x.device)
        flow.own = torch.cat([columns[:1], columns[1 + self.prefix : -1 - self.suffix], columns[-1:]])
        if flow.readout is not None:
            flow.readout = flow.readout + self.prefix + self.suffix
        return self._insert(0, x[:, :1], x[:, 1:-1], x[:, -1:])

    def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        if i == 0:
            return x
        return self._insert(i, x[:, :1], x[:, 1 + self.prefix : -1 - self.suffix], x[:, -1:])
