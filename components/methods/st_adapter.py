"""ST-Adapter: space-time bottlenecks at the start of every vision block (Pan et al., NeurIPS 2022).

Only patches change: ``x + DWConv3D(x W_down) W_up`` over the ``[T, H, W]`` grid of a video. Class tokens pass. The text
tower gets sequential AdaptMLPs, as in MV-Adapter's comparison (section 4.1). Width 384 and a 3 x 1 x 1 kernel, with
CLIP's biases (``train_biases: true``), give the printed 5.93 % of ViT-B/16. Convolution weights start at zero, as in
the authors' code. The bottleneck features of padding frames are zeroed, so that a padded video gives the same result.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.backbones.hooks import Flow, Hooks
from components.config import STRICT
from components.methods.adaptformer import SequentialHooks, adapt_mlps
from components.methods.base import Method, TrainedSettings

Width = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class STAdapterSettings(TrainedSettings):
    """Sizes of the two towers' adapters.

    Attributes:
        bottleneck: Hidden width in the vision tower.
        kernel: Sizes of the depth-wise convolution over frames, rows and columns. They are odd.
        text_bottleneck: Hidden width of the text tower's AdaptMLPs. 0 means no adapters there.
    """

    bottleneck: Width = 384
    kernel: tuple[Width, Width, Width] = (3, 1, 1)
    text_bottleneck: Annotated[int, Field(ge=0)] = 128

    def __post_init__(self) -> None:
        if any(size % 2 == 0 for size in self.kernel):
            raise ValueError(f"kernel {self.kernel} has an even size")


class STAdapter(Method[STAdapterSettings]):
    """Space-time adapters in the vision tower, AdaptMLPs in the text tower."""

    def setup(self) -> None:
        spec, settings = self.spec, self.settings
        self.temporal = settings.kernel[0] > 1
        self.video = nn.ModuleList([SpaceTime(spec.vision_width, settings) for _ in range(spec.vision_layers)])
        self.text = adapt_mlps(spec.text_layers, spec.text_width, settings.text_bottleneck)

    def vision_hooks(self) -> Hooks:
        return _AtTheStart(self.video)

    def text_hooks(self) -> Hooks:
        return SequentialHooks(self.text)


class _AtTheStart(Hooks):
    def __init__(self, adapters: nn.ModuleList) -> None:
        self.adapters: list[Any] = list(adapters)

    def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        return flow.add_own(x, self.adapters[i](flow.own_tokens(x), flow))


class SpaceTime(nn.Module):
    """``DWConv3D(x W_down) W_up`` over the patches of a video."""

    def __init__(self, width: int, settings: STAdapterSettings) -> None:
        super().__init__()
        hidden, kernel = settings.bottleneck, settings.kernel
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(hidden, hidden, kernel, padding=padding, groups=hidden)
        nn.init.zeros_(self.conv.weight)
        for module in (self.down, self.conv, self.up):
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        """What is added to ``x``: ``float[B*T, prefix+N, D] -> float[B*T, prefix+N, D]``, zero for class tokens."""
        assert flow.mask is not None, "the vision tower passes the frame mask"
        videos, length = flow.mask.shape
        side = round((x.shape[1] - flow.prefix) ** 0.5)
        u = self.down(x[:, flow.prefix :]).view(videos, length, side, side, -1)
        u = torch.where(flow.mask[:, :, None, None, None], u, u.new_zeros(()))
        u = self.conv(u.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1).reshape(x.shape[0], side * side, -1)
        return nn.functional.pad(self.up(u), (0, 0, flow.prefix, 0))
