"""Random crop and flip of training videos, with one draw for all frames of a video.

The numbers come from X-Pool's code, which VoP's code builds on: a crop of 50 to 100 % of the area with an aspect ratio
from 3:4 to 4:3, resized to the input size and flipped half of the time. The filter is that of CLIP's preprocessing.
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

# Draws before falling back to a crop that always fits.
ATTEMPTS = 10


def crop_flip(clip: Tensor, rng: np.random.Generator, side: int, interpolation: str) -> Tensor:
    """Crops a random part of the picture, the same in every frame, and mirrors it or not.

    Args:
        clip: uint8[t, 3, H, W].
        rng: Draws the crop and the flip.
        side: ``S``, the output size in pixels.
        interpolation: The resize filter, by torchvision's name.

    Returns:
        uint8[t, 3, S, S].
    """
    top, left, height, width = draw_crop(clip.shape[-2], clip.shape[-1], rng)
    clip = V.resized_crop(
        clip, top, left, height, width, [side, side], InterpolationMode(interpolation), antialias=True
    )
    return V.horizontal_flip(clip) if rng.random() < FLIPPED else clip


def draw_crop(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop, in pixels; the largest centre square if no draw fits."""
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(*AREA)
        # Uniform in the logarithm, so that a ratio and its inverse are as likely.
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    short = min(height, width)
    return (height - short) // 2, (width - short) // 2, short, short
