"""The loss matches its definition, and processes divide the encoding among them."""

from __future__ import annotations

import math
from pathlib import Path

import gloo
import pytest
import torch
from open_clip.loss import SigLipLoss
from torch import Tensor, nn

from components.processes import share_out
from components.training.loss import info_nce, multi_positive_nce, shared_texts, sigmoid_loss

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


SHARED = [
    # Captions of four videos by their words, one each: two videos share one.
    ([0, 1, 2, 3], ["a", "b", "a", "c"]),
    # All are the same.
    ([0, 1, 2], ["a", "a", "a"]),
    # Several captions per video, some of them shared, one repeated within a video.
    ([0, 0, 1, 1, 2, 3, 3, 3], ["a", "b", "b", "c", "d", "a", "e", "e"]),
]


@pytest.mark.parametrize(("owner", "words"), SHARED)
@pytest.mark.parametrize("positives", [False, True])
def test_captions_of_several_videos_by_the_formula(owner: list[int], words: list[str], positives: bool) -> None:
    """The reference asks for every caption and video whether one describes the other, and writes the sums out."""
    videos, captions = max(owner) + 1, range(len(words))
    of_video = [{words[c] for c in captions if owner[c] == i} for i in range(videos)]
    video, text = (nn.functional.normalize(rows.double(), dim=1) for rows in (pairs(videos)[0], pairs(len(words))[1]))
    video.requires_grad_()
    scores = torch.exp(7.0 * text @ video.T)

    def describes(c: int, i: int) -> bool:
        return words[c] in of_video[i]

    total = torch.zeros((), dtype=torch.float64)
    for i in range(videos):
        own = [c for c in captions if owner[c] == i]
        for c in own:
            equal = [d for d in captions if d == c or (words[d] == words[c] and owner[d] != i)]
            if positives:
                row = sum(scores[c, j] for j in range(videos) if describes(c, j)) / scores[c].sum()
                column = sum(scores[d, i] for d in equal) / scores[:, i].sum()
            else:
                row = scores[c, i] / sum(scores[c, j] for j in range(videos) if j == i or not describes(c, j))
                column = scores[c, i] / sum(scores[d, i] for d in captions if owner[d] == i or not describes(d, i))
            total -= (torch.log(row) + torch.log(column)) / 2 / len(own) / videos
    tokens = torch.tensor([[ord(word), 7] for word in words])
    same_text = shared_texts(tokens, torch.tensor(owner))
    inputs = video.float(), text.float(), torch.tensor(7.0), torch.tensor(owner)
    found = multi_positive_nce(*inputs, same_text, positives)
    assert abs(float((found - multi_positive_nce(*inputs)).detach())) > 1e-2
    assert float(found.detach()) == pytest.approx(float(total.detach()), abs=1e-6)
    ours, theirs = torch.autograd.grad(found, video)[0], torch.autograd.grad(total, video)[0]
    assert (ours - theirs).abs().max() <= 1e-6


@pytest.mark.parametrize(("owner", "words"), [*SHARED, ([0, 1, 2, 3], ["a", "b", "c", "d"])])
@pytest.mark.parametrize("equal", ["negatives", "masked", "positives"])
def test_sigmoid_loss_by_the_formula(owner: list[int], words: list[str], equal: str) -> None:
    videos, captions = max(owner) + 1, range(len(words))
    video, text = (nn.functional.normalize(rows.double(), dim=1) for rows in (pairs(videos)[0], pairs(len(words))[1]))
    scale, bias, total = torch.tensor(9.0), torch.tensor(-3.0), 0.0
    for c in captions:
        for i in range(videos):
            shared = any(words[d] == words[c] and owner[d] == i for d in captions)
            right = owner[c] == i or (shared and equal == "positives")
            if shared and not right and equal == "masked":
                continue
            score = float(9.0 * text[c] @ video[i] - 3.0)
            total += math.log1p(math.exp(-score if right else score)) / owner.count(owner[c]) / videos
    tokens = torch.tensor([[ord(word), 7] for word in words])
    same_text = None if equal == "negatives" else shared_texts(tokens, torch.tensor(owner))
    found = sigmoid_loss(video.float(), text.float(), scale, bias, torch.tensor(owner), same_text, equal == "positives")
    assert float(found) == pytest.approx(total, abs=1e-5)


def test_sigmoid_loss_of_pairs_equals_open_clips() -> None:
    video, text = (nn.functional.normalize(rows, dim=1) for rows in pairs(6))
    scale, bias = torch.tensor(20.0), torch.tensor(-10.0)
    found = sigmoid_loss(video, text, scale, bias, torch.arange(6))
    assert float(found) == pytest.approx(float(SigLipLoss()(video, text, scale, bias)), rel=1e-6)


def test_without_shared_texts_the_loss_is_the_same() -> None:
    """A repeated caption of one video is no fault of another."""
    owner, tokens = torch.tensor([0, 0, 1, 2]), torch.tensor([[5, 6], [5, 6], [5, 7], [6, 6]])
    assert shared_texts(tokens, owner) is None
    # With texts that no other video has, the general form is the loss of several captions.
    inputs = pairs(3)[0], pairs(4)[1], torch.tensor(7.0), owner
    for positives in (False, True):
        found = multi_positive_nce(*inputs, torch.tensor([0, 0, 1, 2]), positives)
        assert float(found) == pytest.approx(float(multi_positive_nce(*inputs)))


def test_scores_far_apart_have_a_finite_loss() -> None:
    """At a scale of 100, the exponential of the smallest score is zero in float32."""
    video = nn.functional.normalize(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), dim=1).requires_grad_()
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    for positives in (False, True):
        loss = multi_positive_nce(video, text, torch.tensor(100.0), torch.arange(3), torch.tensor([0, 0, 1]), positives)
        (gradient,) = torch.autograd.grad(loss, video)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


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
