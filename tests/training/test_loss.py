"""The loss against its definition, and its gradients over several processes against one."""

from __future__ import annotations

from pathlib import Path

import gloo
import pytest
import torch
from torch import Tensor, nn

from components.training.collective import average_gradients, gather, rank_and_world, share_out
from components.training.loss import info_nce

WIDTH = 5


def pairs(total: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(total)
    return torch.randn(total, WIDTH, generator=generator), torch.randn(total, WIDTH, generator=generator)


def model() -> nn.ModuleDict:
    torch.manual_seed(3)
    towers = nn.ModuleDict({"video": nn.Linear(WIDTH, WIDTH), "text": nn.Linear(WIDTH, WIDTH)})
    towers.register_parameter("unused", nn.Parameter(torch.ones(2)))
    return towers


def loss_and_gradients(total: int) -> tuple[float, dict[str, Tensor]]:
    """One step's loss and gradients; each process encodes its own share."""
    rank, world = rank_and_world()
    videos, texts = (rows[rank::world] for rows in pairs(total))
    towers = model()
    video = nn.functional.normalize(towers["video"](videos), dim=1)
    text = nn.functional.normalize(towers["text"](texts), dim=1)
    loss = info_nce(gather(video, total), gather(text, total), torch.tensor(20.0))
    loss.backward()
    parameters = dict(towers.named_parameters())
    average_gradients(list(parameters.values()))
    return float(loss.detach()), {name: p.grad for name, p in parameters.items() if p.grad is not None}


def test_loss_is_the_mean_of_both_cross_entropies() -> None:
    video, text = (nn.functional.normalize(rows.double(), dim=1) for rows in pairs(6))
    scores = torch.exp(7.0 * text @ video.T)
    expected = (
        -torch.log(scores.diagonal() / scores.sum(1)).mean() - torch.log(scores.diagonal() / scores.sum(0)).mean()
    )
    found = info_nce(video.float(), text.float(), torch.tensor(7.0))
    assert float(found) == pytest.approx(float(expected) / 2, abs=1e-6)


@pytest.mark.parametrize(("world", "total"), [(2, 8), (3, 7)])
def test_processes_have_the_loss_and_gradients_of_one(world: int, total: int, tmp_path: Path) -> None:
    """Also with shares of unequal size, and with a parameter that no process uses."""
    loss, gradients = loss_and_gradients(total)
    for other_loss, other_gradients in gloo.spawn(world, loss_and_gradients, tmp_path, total):
        assert other_loss == pytest.approx(loss, abs=1e-6)
        assert torch.equal(other_gradients.pop("unused"), torch.zeros(2))
        assert other_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(other_gradients[name], gradient, atol=1e-6, rtol=1e-5)


def encode_numbers(rows: int, chunk: int) -> Tensor:
    """Stands for an encoder: row i becomes (i, -i)."""
    return share_out(rows, chunk, lambda part: torch.arange(part.start, part.stop)[:, None] * torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("rows", [1, 10])
def test_shared_encoding_returns_every_row_in_order(rows: int, tmp_path: Path) -> None:
    expected = torch.arange(rows)[:, None] * torch.tensor([1.0, -1.0])
    assert torch.equal(encode_numbers(rows, 4), expected)
    for found in gloo.spawn(2, encode_numbers, tmp_path, rows, 4):
        assert torch.equal(found, expected)
