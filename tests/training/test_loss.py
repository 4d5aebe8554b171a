"""The loss matches its definition, and processes divide the encoding among them."""

from __future__ import annotations

import math
from pathlib import Path

import gloo
import pytest
import torch
from torch import Tensor, nn

from components.processes import share_out
from components.training.loss import info_nce, multi_positive_nce

WIDTH = 5


def pairs(total: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(total)
    return torch.randn(total, WIDTH, generator=generator), torch.randn(total, WIDTH, generator=generator)


def test_loss_is_the_mean_of_both_cross_entropies() -> None:
    video, text = (nn.functional.normalize(rows.double(), dim=1) for rows in pairs(6))
    scores = torch.exp(7.0 * text @ video.T)
    expected = (
        -torch.log(scores.diagonal() / scores.sum(1)).mean() - torch.log(scores.diagonal() / scores.sum(0)).mean()
    )
    found = info_nce(video.float(), text.float(), torch.tensor(7.0))
    assert float(found) == pytest.approx(float(expected) / 2, abs=1e-6)


def test_several_captions_by_the_formula() -> None:
    """Three videos have two, one and three captions. The reference writes the sums out."""
    owner = [0, 0, 1, 2, 2, 2]
    video, text = (nn.functional.normalize(rows.double(), dim=1) for rows in (pairs(3)[0], pairs(6)[1]))
    scores = torch.exp(7.0 * text @ video.T)
    terms: list[list[Tensor]] = [[], [], []]
    for caption, of in enumerate(owner):
        to_video = -torch.log(scores[caption, of] / scores[caption].sum())
        to_text = -torch.log(scores[caption, of] / scores[:, of].sum())
        terms[of].append((to_video + to_text) / 2)
    expected = sum(sum(of) / len(of) for of in terms) / 3
    found = multi_positive_nce(video.float(), text.float(), torch.tensor(7.0), torch.tensor(owner))
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_one_caption_each_is_info_nce() -> None:
    """With one caption per video the losses are equal. Repeated captions of a video only add to denominators."""
    video, text = (nn.functional.normalize(rows, dim=1) for rows in pairs(6))
    scale = torch.tensor(7.0)
    assert torch.equal(multi_positive_nce(video, text, scale, torch.arange(6)), info_nce(video, text, scale))
    twice = multi_positive_nce(video, text.repeat_interleave(2, 0), scale, torch.arange(6).repeat_interleave(2))
    # The sum over captions has every term twice, which adds log 2 in one of the two directions.
    assert float(twice) == pytest.approx(float(info_nce(video, text, scale)) + math.log(2) / 2, abs=1e-6)


def encode_numbers(rows: int, chunk: int) -> Tensor:
    """Acts as an encoder: row i becomes (i, -i)."""
    return share_out(
        rows,
        chunk,
        lambda found: found,
        lambda part: torch.arange(part.start, part.stop)[:, None] * torch.tensor([1.0, -1.0]),
    )


@pytest.mark.parametrize("rows", [1, 10])
def test_shared_encoding_returns_every_row_in_order(rows: int, tmp_path: Path) -> None:
    expected = torch.arange(rows)[:, None] * torch.tensor([1.0, -1.0])
    assert torch.equal(encode_numbers(rows, 4), expected)
    for found in gloo.spawn(2, encode_numbers, tmp_path, rows, 4):
        assert torch.equal(found, expected)
