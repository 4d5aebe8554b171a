"""Resizing and JPEG coding of frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.errors import DataError
from components.frames.jpeg import decode_frames, encode_frames
from components.ingest.resize import fitted_size, resize_frames


def test_long_side_is_cut_not_rounded() -> None:
    assert fitted_size(320, 240, 224) == (298, 224)
    assert fitted_size(240, 320, 224) == (224, 298)
    assert fitted_size(256, 256, 96) == (96, 96)


def test_resize_is_pil_bicubic_of_the_whole_frame() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    expected = np.asarray(Image.fromarray(frame).resize((42, 32), Image.Resampling.BICUBIC))
    resized = resize_frames([frame, frame[:, ::-1]], 32)
    assert resized.shape == (2, 32, 42, 3)
    assert np.array_equal(resized[0], expected)


def test_frames_of_other_sizes_take_the_first_ones() -> None:
    frames = [np.zeros((48, 64, 3), np.uint8), np.zeros((100, 30, 3), np.uint8)]
    assert resize_frames(frames, 32).shape == (2, 32, 42, 3)


def test_right_size_is_left_untouched() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (32, 40, 3), np.uint8)
    assert np.array_equal(resize_frames([frame], 32)[0], frame)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(16, 80), st.integers(16, 80), st.tuples(*[st.integers(0, 255)] * 3))
def test_saturated_colours_survive_jpeg(count: int, height: int, width: int, colour: tuple[int, int, int]) -> None:
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, :, width // 2 :] = colour  # an edge of colour, where subsampled chroma would bleed
    back = decode_frames(encode_frames(frames, 95))
    assert back.shape == frames.shape
    error = float(np.mean((back.astype(float) - frames) ** 2))
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 36


def test_damaged_empty_and_mixed_frames_are_refused() -> None:
    good = encode_frames(np.zeros((1, 32, 32, 3), np.uint8), 90)
    other = encode_frames(np.zeros((1, 16, 32, 3), np.uint8), 90)
    with pytest.raises(DataError, match="damaged JPEG"):
        decode_frames([good[0], b"\xff\xd8 no picture"])
    with pytest.raises(DataError, match="differ in size"):
        decode_frames([*good, *other])
    with pytest.raises(DataError, match="no frames"):
        decode_frames([])


def test_full_chroma_keeps_saturated_edges_and_half_of_it_saves_bytes() -> None:
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[..., 2] = 255
    picture[:, 1::2] = (255, 0, 0)
    full, half = (encode_frames(picture[None], 95, chroma)[0] for chroma in (444, 420))
    errors = [np.abs(decode_frames([jpeg])[0].astype(int) - picture).mean() for jpeg in (full, half)]
    assert len(half) < len(full)
    assert errors[0] < 5 < 50 < errors[1]
