"""Re-scoring against its equations written out, and its separation from plain metrics."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import tiny_world
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.adapters.card import read_card
from components.adapters.file import save_adapter
from components.backbones.load import load_backbone
from components.evaluation.card import DIRECTIONS, METRICS, Direction, ScorecardHead
from components.evaluation.encode import EncodedSplit
from components.evaluation.evaluate import evaluate
from components.evaluation.ranks import text_to_video
from components.evaluation.rescoring import Bank, dual_softmax, qb_norm, rescored, rescored_ranks
from components.evaluation.settings import DualSoftmax, EvaluationSettings, QbNorm
from components.frames.store import FrameStore
from components.methods.build import build
from components.params import load_params
from components.video import Video

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = load_params(ROOT / "params.yaml").evaluation
BOTH = dataclasses.replace(SETTINGS, rescoring=("dual_softmax", "qb_norm"))


def normal(rows: int, width: int, seed: int) -> Tensor:
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


def world(owner: list[int], videos: int, seed: int, absent: tuple[int, ...] = ()) -> EncodedSplit:
    made = tuple(Video(f"v{number}", f"v{number}.mp4", "test", ("a caption",)) for number in range(videos))
    vectors = normal(videos, 6, seed)
    present = torch.ones(videos, dtype=torch.bool)
    present[list(absent)] = False
    vectors[~present] = 0
    texts = tuple(f"text {number}" for number in range(len(owner)))
    return EncodedSplit(made, present, vectors, texts, torch.tensor(owner), normal(len(owner), 6, seed + 1), {})


def dual_softmax_oracle(scores: list[list[float]], temperature: float) -> list[list[float]]:
    """The equation, score by score."""
    sums = [math.fsum(math.exp(row[c] / temperature) for row in scores) for c in range(len(scores[0]))]
    return [[s * math.exp(s / temperature) / sums[c] for c, s in enumerate(row)] for row in scores]


def qb_norm_oracle(scores: list[list[float]], bank: list[list[float]], beta: float, top: int) -> list[list[float]]:
    """The equations, score by score, without ties."""
    active = {c for row in bank for c in sorted(range(len(row)), key=lambda c: -row[c])[:top]}
    sums = [math.fsum(math.exp(beta * row[c]) for row in bank) for c in range(len(bank[0]))]
    return [
        [math.exp(beta * s) / sums[c] for c, s in enumerate(row)] if row.index(max(row)) in active else row
        for row in scores
    ]


@given(
    st.integers(1, 12), st.integers(1, 9), st.integers(0, 99), st.sampled_from([0.02, 0.3, 2.0]), st.integers(1, 400)
)
@settings(max_examples=60, deadline=None)
def test_dual_softmax_is_its_equation(queries: int, candidates: int, seed: int, temperature: float, chunk: int) -> None:
    matrix = (torch.randn(queries, candidates, generator=torch.Generator().manual_seed(seed)) / 3).double()
    everyone = torch.ones(queries, dtype=torch.bool)
    found = dual_softmax(lambda rows: matrix[rows], everyone, candidates, temperature, chunk)(slice(0, queries))
    expected = torch.tensor(dual_softmax_oracle(matrix.tolist(), temperature), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-300)


@given(
    st.integers(1, 9), st.integers(2, 8), st.integers(1, 9), st.integers(0, 99), st.integers(1, 3), st.integers(1, 400)
)
@settings(max_examples=60, deadline=None)
def test_qb_norm_is_its_equation(queries: int, candidates: int, bank: int, seed: int, top: int, chunk: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.rand(queries, candidates, generator=generator).double()
    theirs = torch.rand(bank, candidates, generator=generator).double()
    normed = qb_norm(lambda rows: matrix[rows], lambda rows: theirs[rows], bank, candidates, 20.0, top, chunk)
    expected = torch.tensor(qb_norm_oracle(matrix.tolist(), theirs.tolist(), 20.0, top), dtype=torch.float64)
    # Only the order counts: these are logarithms where the equation has exponentials.
    assert normed(slice(0, queries)).argsort(dim=1).tolist() == expected.argsort(dim=1).tolist()


def test_both_directions_rank_the_rescored_matrix() -> None:
    """Several captions per video: each direction acts on the matrix of its plain ranks."""
    owner = [0, 0, 1, 2, 3, 3, 3, 4]
    split = world(owner, 5, 7)
    matrix = (split.text_vectors.double() @ split.video_vectors.double().T).float().double()
    best = torch.stack([matrix[split.owner == video].amax(0) for video in range(5)]).T
    ranks = rescored_ranks("dual_softmax", split, SETTINGS, None)
    sides: dict[Direction, tuple[Tensor, list[int]]] = {"t2v": (matrix, owner), "v2t": (best, list(range(5)))}
    for direction, (plain, target) in sides.items():
        scores = torch.tensor(dual_softmax_oracle(plain.tolist(), SETTINGS.dual_softmax.temperature))
        expected = [1 + int((row > row[right]).sum()) for row, right in zip(scores, target, strict=True)]
        assert ranks[direction].expected.tolist() == expected


def test_a_hub_is_pushed_back() -> None:
    """One video is near to everything. After either re-scoring the other videos have better ranks."""
    split = world(list(range(12)), 12, 1)
    hub = torch.nn.functional.normalize(torch.ones(1, 6), dim=1)
    texts = torch.nn.functional.normalize(split.video_vectors + 1.5 * hub, dim=1)
    split = dataclasses.replace(split, text_vectors=texts, video_vectors=torch.cat([hub, split.video_vectors[1:]]))
    bank = Bank(torch.nn.functional.normalize(normal(200, 6, 5) + 1.5 * hub, dim=1), normal(200, 6, 6))
    loose = dataclasses.replace(BOTH, dual_softmax=DualSoftmax(0.05), qb_norm=QbNorm(20.0, 1, 500))
    plain = text_to_video(split.text_vectors, split.video_vectors, split.owner).expected
    for name in BOTH.rescoring:
        changed = rescored_ranks(name, split, loose, bank)["t2v"].expected
        assert changed[1:].mean() < plain[1:].mean()


@pytest.mark.parametrize("name", BOTH.rescoring)
def test_ties_and_absent_videos_stay(name: str) -> None:
    """Two equal videos tie as before with chunks of any size. A video without a vector is last and in no sum."""
    split = world(list(range(9)), 9, 3, absent=(4, 8))
    split.video_vectors[1] = split.video_vectors[0]
    bank = Bank(normal(40, 6, 8), normal(30, 6, 9))
    for chunk in (1, 500, 2**20):
        ranks = rescored_ranks(name, split, SETTINGS, bank, chunk)
        for direction in DIRECTIONS:
            assert ranks[direction].expected[[4, 8]].tolist() == [9.0, 9.0]
        assert (ranks["t2v"].pessimistic - ranks["t2v"].optimistic).tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    smaller = dataclasses.replace(split, video_vectors=split.video_vectors.clone())
    smaller.video_vectors[4] = 5.0
    again = rescored_ranks(name, smaller, SETTINGS, bank)
    for direction in DIRECTIONS:
        assert again[direction].expected.tolist() == ranks[direction].expected.tolist()


def test_no_bank_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a bank"):
        rescored(world([0, 1], 2, 1), BOTH, None)


def test_plain_metrics_are_the_same_with_and_without_rescoring(tmp_path: Path) -> None:
    """A real evaluation, compared to the bit. The block says what it used."""
    tiny_world.write_project(tmp_path, train=9, val=6, test=8, failed_test=2)
    params = tiny_world.params(tmp_path)
    store = FrameStore(tmp_path / "outputs" / "frames" / tiny_world.TASK)
    backbone = load_backbone(params.backbone, tmp_path)
    method = build("zero_shot", {}, backbone, frames=tiny_world.FRAMES, words=16)
    save_adapter(tmp_path / "adapter", method, task=tiny_world.TASK, provenance={"commit": None})
    adapter = read_card(tmp_path / "adapter")

    def made(evaluation: EvaluationSettings) -> tuple[ScorecardHead, object]:
        scorecard = evaluate(method, store, "test", adapter, 0, evaluation)
        return dataclasses.replace(scorecard.card, seconds={}), scorecard.ranks

    plain, plain_ranks = made(params.evaluation)
    both = dataclasses.replace(params.evaluation, rescoring=("dual_softmax", "qb_norm"))
    more, more_ranks = made(both)
    assert plain_ranks == more_ranks
    assert "rescored" not in json.loads(plain.to_json())
    blocks = more.rescored
    assert dataclasses.replace(more, rescored={}) == plain
    assert set(blocks) == {"dual_softmax", "qb_norm"}
    assert blocks["dual_softmax"].uses == "all queries of the split at once"
    assert blocks["qb_norm"].settings == {"beta": 20.0, "top": 1, "bank": 5000}
    for block in blocks.values():
        assert tuple(block.t2v) == tuple(block.v2t) == METRICS
