"""STOP: spatial prompts on pixels and temporal prompts per frame (Liu et al., CVPR 2025, arXiv 2503.15973).

It extends DGL (:mod:`components.methods.dgl`), in four places::

    pixels    x + s (1 + R) P                P: a small 3-D convolutional network of the video; R: marked regions
    prompts   V_i + s (1 + w_t) Q_t          V_i: DGL's frame prompts of layer i; Q_t, w_t: made from the patches
    MLP       m + 0.1 W_2 PReLU(W_1 x)       in every layer of both towers, x being the MLP's input before its norm
    readout   the first global prompt        as in DGL

with ``s = 0.05``. R marks, in each frame, the ``regions`` patches with the largest mean output of another convolution
over the frames around it. Q comes from attention over all patches of the video after ``ln_pre``, then two convolutions
over frames, patches and channels, and an MLP over the patches, which gives P prompts. w is the mean of another
convolution of the same attention, which counts marked patches twice, scaled to [0, 1] within the video.

The paper prints 7.53 M trained parameters on ViT-B/32, and no form of its release has that number. Ours has 3,940,023.
Of these, 433,664 are DGL's, 2,507,167 make the spatial and temporal prompts (2,362,368 of them attention), and 999,192
are next to the MLPs. The release has 393,729 more: text prompts that nothing reads (see DGL) and a bias that cancels.
With ``generator: transformer``, ours has 13,081,527 and the release one more. The release's script names both
generators, in the halves of an unresolved merge.

The release with random weights gives the same embedding of one video, as a test shows. Ours differs in this:

- The release scales w over the batch, so that a video depends on the others. Ours scales within the video.
- The release takes pixels with equal (row mod 7, column mod 7) for a region. ``grid: released`` does the same, and
  ``grid: patches`` takes the patches, as the paper says.
- Marks are yes or no, so the release's convolution for R never learns. Ours gets the gradient of a sigmoid.
- Patches are marked from a margin of 1e-5, so that ties (a black frame) do not depend on rounding.
- The release is written for 49 patches. Ours takes any square number: ViT-B/16 has 2,352 scalars more.

A video of 12 frames takes 150 billion multiply-adds on ViT-B/32, where DGL takes 65 and plain CLIP 53. Most of the
difference is convolutions over pixels.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.hooks import Flow, Hooks, all_valid
from components.config import STRICT
from components.errors import ConfigError
from components.methods.dgl import DGL, DGLSettings
from components.methods.global_local import GlobalLocal
from components.methods.prompts import LayerPrompts

# The factor on pixel prompts and temporal prompts, and the margin from which a region is marked.
SCALE, MARGIN = 0.05, 1e-5
# The factor on what is added next to the MLPs.
ADDED = 0.1


@dataclass(frozen=True, config=STRICT)
class STOPSettings(DGLSettings):
    """Sizes, besides DGL's.

    Attributes:
        hidden: Channels of the convolutional networks. The last one before the pixels' MLP has 16.
        regions: The number of marked regions per frame.
        grid: Whether a region is a patch, or the pixels that the release takes for one.
        bottleneck: Hidden width next to the MLPs. 0 leaves this out.
        dropout: Probability of dropout on pixel prompts in training.
    """

    hidden: Annotated[int, Field(ge=1)] = 9
    regions: Annotated[int, Field(ge=1)] = 6
    grid: Literal["patches", "released"] = "patches"
    bottleneck: Annotated[int, Field(ge=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5


class STOP(DGL):
    """DGL with prompts made from the video."""

    Settings = STOPSettings
    settings: STOPSettings

    def setup(self) -> None:
        super().setup()
        spec, settings = self.spec, self.settings
        side = spec.image_size // spec.patch_size
        if settings.regions >= side**2:
            raise ConfigError(
                "a frame has too few patches to mark some of them",
                where=f"methods.{self.name}.regions",
                found=settings.regions,
                expected=f"fewer than {side**2}",
            )
        self.temporal = True
        self.spatial = Spatial(side, settings)
        self.inter = Temporal(spec.vision_width, side**2, settings.hidden, settings.frame_prompts)
        width = settings.bottleneck
        self.video = nn.ModuleList(
            [bottleneck(spec.vision_width, width) for _ in range(spec.vision_layers if width else 0)]
        )
        self.text = nn.ModuleList([bottleneck(spec.text_width, width) for _ in range(spec.text_layers if width else 0)])

    def vision_hooks(self) -> Hooks:
        return _Video(self)

    def text_hooks(self) -> Hooks:
        layers = self.spec.text_layers
        return _Text(self.source.of_texts()[:layers], self.text)


class Convolved(nn.Module):
    """A 3-D convolution over frames, rows and columns that sees no padding frame, and gives zero there."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int], bias: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(inputs, outputs, kernel, padding=padding, bias=bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``float[B, C, T, H, W], bool[B, T] -> float[B, C', T, H, W]``. Padding frames of ``x`` are zero."""
        return blank(self.conv(x), mask)


def blank(x: Tensor, mask: Tensor) -> Tensor:
    """``float[B, C, T, H, W]`` with zeros in padding frames, ``bool[B, T]``."""
    return torch.where(mask[:, None, :, None, None], x, x.new_zeros(()))


def bottleneck(width: int, hidden: int) -> nn.Sequential:
    """What is added next to an MLP: ``float[..., D] -> float[..., D]``."""
    return nn.Sequential(nn.Linear(width, hidden), nn.PReLU(), nn.Linear(hidden, width))


class Spatial(nn.Module):
    """Prompts on the pixels, and the regions that get more of them.

    Args:
        side: The number of patches in a row.
        settings: The method's settings.
    """

    def __init__(self, side: int, settings: STOPSettings) -> None:
        super().__init__()
        self.side, self.settings = side, settings
        kernel, hidden = (3, 11, 11), settings.hidden
        sizes = [(3, hidden), (hidden, hidden), (hidden, hidden), (hidden, 16)]
        self.convs = nn.ModuleList([Convolved(*size, kernel) for size in sizes])
        self.slopes = nn.ModuleList([nn.PReLU() for _ in range(2)])
        self.mlp = nn.Sequential(nn.Linear(16, 16), nn.PReLU(), nn.Linear(16, 3))
        self.variation = Convolved(3, 1, (5, 11, 11))

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels with prompts, and the marks.

        Args:
            frames: ``float[B, T, 3, S, S]``.
            mask: ``bool[B, T]``.

        Returns:
            ``float[B, T, 3, S, S]`` and ``float[B, T, N]``, one for marked patches and zero for others.
        """
        x = blank(frames.transpose(1, 2), mask)
        marks = self._marks(self.variation(x, mask).squeeze(1))
        x = self.convs[0](x, mask)
        # As in the release, no activation comes after the first convolution.
        for conv, slope in zip(self.convs[1:3], self.slopes, strict=True):
            x = slope(conv(x, mask))
        x = self._dropped(self.convs[3](x, mask)).movedim(1, -1)
        prompts = self._dropped(self._dropped(self.mlp(x))).movedim(-1, 2)
        on_pixels = self._on_pixels(marks, frames.shape[-1] // self.side).unsqueeze(2)
        return frames + SCALE * (1 + on_pixels) * prompts, marks.flatten(2)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.settings.dropout, self.training)

    def _marks(self, variation: Tensor) -> Tensor:
        """``float[B, T, S, S] -> float[B, T, side, side]``, ones and zeros with the gradient of a sigmoid."""
        size = variation.shape[-1] // self.side
        if self.settings.grid == "patches":
            found = variation.unflatten(3, (self.side, size)).unflatten(2, (self.side, size)).mean(dim=(3, 5))
        else:
            found = variation.unflatten(3, (size, self.side)).unflatten(2, (size, self.side)).mean(dim=(2, 4))
        bar = found.detach().flatten(2).sort(dim=2, descending=True)[0][..., self.settings.regions]
        soft = torch.sigmoid(found)
        return (found > bar[..., None, None] + MARGIN).to(soft.dtype) + (soft - soft.detach())

    def _on_pixels(self, marks: Tensor, size: int) -> Tensor:
        """``float[B, T, side, side] -> float[B, T, side * size, side * size]``."""
        if self.settings.grid == "patches":
            return marks.repeat_interleave(size, dim=2).repeat_interleave(size, dim=3)
        return marks.repeat(1, 1, size, size)


class Temporal(nn.Module):
    """Prompts of each frame, made from the patches of the video.

    Args:
        width: D.
        patches: N, patches per frame.
        hidden: Channels of the convolutions.
        prompts: P.
    """

    def __init__(self, width: int, patches: int, hidden: int, prompts: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, max(1, width // 64), batch_first=True)
        self.convs = nn.ModuleList([Convolved(1, hidden, (3, 15, 25)), Convolved(hidden, 1, (3, 15, 25))])
        self.slope = nn.PReLU()
        self.mlp = nn.Sequential(nn.Linear(patches, 16), nn.PReLU(), nn.Linear(16, prompts))
        # A bias would cancel in the scaling. The release has one.
        self.variation = Convolved(1, 1, (5, 11, 11), bias=False)

    def forward(self, patches: Tensor, mask: Tensor, marks: Tensor) -> Tensor:
        """The prompts of all layers.

        Args:
            patches: ``float[B, T, N, D]``, after ``ln_pre``.
            mask: ``bool[B, T]``.
            marks: ``float[B, T, N]``.

        Returns:
            ``float[B, T, P, D]``.
        """
        x = patches.flatten(1, 2)
        hidden = None if all_valid(mask) else ~mask.repeat_interleave(patches.shape[2], dim=1)
        x = self.attention(x, x, x, key_padding_mask=hidden, need_weights=False)[0]
        x = blank(x.view_as(patches).unsqueeze(1), mask)
        weight = self._weights(self.variation(x, mask).squeeze(1), mask, marks)
        x = self.convs[1](self.slope(self.convs[0](x, mask)), mask).squeeze(1)
        prompts = self.mlp(x.transpose(2, 3)).transpose(2, 3)
        return SCALE * (1 + weight[..., None, None]) * prompts

    def _weights(self, variation: Tensor, mask: Tensor, marks: Tensor) -> Tensor:
        """The weight of each frame, in [0, 1] within its video: ``float[B, T, N, D] -> float[B, T]``."""
        found = (variation * (1 + marks.unsqueeze(3))).mean(dim=(2, 3)).float()
        low = found.masked_fill(~mask, torch.inf).amin(dim=1, keepdim=True)
        high = found.masked_fill(~mask, -torch.inf).amax(dim=1, keepdim=True)
        # All frames of a still video have the weight zero.
        return torch.where(mask, (found - low) / (high - low).clamp(min=1e-6), found.new_zeros(()))


class _Video(GlobalLocal):
    def __init__(self, stop: STOP) -> None:
        super().__init__(stop.global_prompts)
        self.stop, self.shared = stop, stop.source.of_frames()
        self.added: list[Any] = list(stop.video)
        self.marks = self.made = torch.empty(0)

    def before_patches(self, frames: Tensor, flow: Flow) -> Tensor:
        assert flow.mask is not None, "the vision tower passes the frame mask"
        prompted, self.marks = self.stop.spatial(frames.view(*flow.mask.shape, *frames.shape[1:]), flow.mask)
        return prompted.flatten(0, 1)

    def frame_prompts(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        if i == 0:
            assert flow.mask is not None, "the vision tower passes the frame mask"
            patches = flow.own_tokens(x)[:, 1:]
            self.made = self.stop.inter(patches.view(*flow.mask.shape, *patches.shape[1:]), flow.mask, self.marks)
        return self.shared[i, : flow.frames] + self.made

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        return m + ADDED * self.added[i](x) if self.added else m


class _Text(LayerPrompts):
    def __init__(self, prompts: Tensor, added: nn.ModuleList) -> None:
        super().__init__(prompts, range(len(prompts)))
        self.added: list[Any] = list(added)

    def after_mlp(self, i: int, x: Tensor, h: Tensor, m: Tensor, flow: Flow) -> Tensor:
        return m + ADDED * self.added[i](x) if self.added else m
