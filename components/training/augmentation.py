"""Random crop and flip of training videos, one draw for all frames of a video.

The numbers are those of X-Pool's code, on which VoP's builds: a crop of 50 to 100 % of the area with a side ratio of
3:4 to 4:3, resized to the input, flipped half of the time. The filter is the one of CLIP's own preprocessing.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

AREA = (0.5, 1.0)
RATIO = (3 / 4, 4 / 3)
FLIPPED = 0.5

# Draws before a crop is taken that fits for certain.
ATTEMPTS = 10


def crop_flip(clip: Tensor, rng: np.random.Generator, side: int, interpolation: str) -> Tensor:
    """A random part of the picture, the same in every frame, mirrored or not.

    Args:
        clip: uint8[t, 3, H, W].
        rng: decides.
        side: ``S``.
        interpolation: filter of the resize, torchvision's name.

    Returns:
        uint8[t, 3, S, S].
    """
    top, left, height, width = draw_crop(clip.shape[-2], clip.shape[-1], rng)
    clip = V.resized_crop(
        clip, top, left, height, width, [side, side], InterpolationMode(interpolation), antialias=True
    )
    return V.horizontal_flip(clip) if rng.random() < FLIPPED else clip


def draw_crop(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop, in pixels; the whole picture's largest centre square if none fits."""
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(*AREA)
        # Uniform in the logarithm, so that a ratio and its inverse are as likely.
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    short = min(height, width)
    return (height - short) // 2, (width - short) // 2, short, short
