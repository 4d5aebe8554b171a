"""A crop is inside the picture, has the stated size, is the same in all frames and is mirrored half of the time."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training.augmentation import AREA, RATIO, crop_flip, draw_crop


@given(st.integers(0, 2**31), st.integers(20, 400), st.integers(20, 400))
@settings(max_examples=200, deadline=None)
def test_crops_lie_in_the_picture(seed: int, height: int, width: int) -> None:
    top, left, h, w = draw_crop(height, width, np.random.default_rng(seed))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    centre = (h, w) == (min(height, width),) * 2
    # Sides are rounded to whole pixels.
    assert centre or AREA[0] - 0.05 < h * w / (height * width) <= AREA[1]
    assert RATIO[0] - 0.1 < w / h < RATIO[1] + 0.1


def test_all_frames_of_a_video_are_seen_alike() -> None:
    """A marked column is at the same place in every frame, and over many draws on either side."""
    clip = torch.zeros(3, 3, 40, 60, dtype=torch.uint8)
    clip[..., :30] = 200
    lit_left = []
    for seed in range(40):
        out = crop_flip(clip, np.random.default_rng(seed), side=32, interpolation="bicubic")
        assert out.shape == (3, 3, 32, 32)
        assert torch.equal(out[0], out[1])
        lit_left.append(bool(out[0, 0, 0, 0] > 100))
        assert torch.equal(out, crop_flip(clip, np.random.default_rng(seed), side=32, interpolation="bicubic"))
    assert 10 < sum(lit_left) < 30
