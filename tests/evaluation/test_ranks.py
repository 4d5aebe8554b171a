"""Ranks against a ten-line oracle, against released implementations, and where those are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.errors import EvaluationError
from components.evaluation.metrics import summary, ties
from components.evaluation.ranks import Ranks, rank, text_to_video, video_to_text

GOLDEN = Path(__file__).parents[1] / "golden"
RELEASED: dict[str, Any] = json.loads((GOLDEN / "case09_metrics.json").read_text())["matrices"]
NO_TIES = [name for name, case in RELEASED.items() if not case["ties"]]


def matrix(name: str) -> tuple[Tensor, Tensor]:
    arrays = np.load(GOLDEN / "case09_metrics.npz")
    similarity = torch.from_numpy(arrays[f"in.{name}.sim"])
    owner = arrays.get(f"in.{name}.video_of_text")
    return similarity, torch.arange(len(similarity)) if owner is None else torch.from_numpy(owner)


def from_similarity(similarity: Tensor, owner: Tensor) -> tuple[Ranks, Ranks]:
    """Ranks of both directions from a matrix float[Q, N] of texts against videos."""
    texts, videos = similarity.shape
    everyone = torch.ones(videos, dtype=torch.bool)
    best = torch.stack([similarity[owner == video].amax(0) for video in range(videos)]).T
    forward = rank(lambda rows: similarity[rows], owner, videos, everyone[owner])
    return forward, rank(lambda rows: best[rows], torch.arange(videos), max(texts, videos), everyone)


def oracle(rows: list[list[float]], target: list[int]) -> list[tuple[float, int, int]]:
    """Expected, optimistic and pessimistic rank, straight from the definition."""
    found = []
    for row, right in zip(rows, target, strict=True):
        better = sum(score > row[right] for score in row)
        equal = sum(score == row[right] for score in row) - 1
        found.append((1 + better + equal / 2, 1 + better, 1 + better + equal))
    return found


def triples(ranks: Ranks) -> list[tuple[float, int, int]]:
    return list(zip(ranks.expected.tolist(), ranks.optimistic.tolist(), ranks.pessimistic.tolist(), strict=True))


@st.composite
def collections(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Texts, videos, owner and present; small integers, so that scores are exact and ties common."""
    videos = draw(st.integers(1, 7))
    owner = draw(st.permutations([*range(videos), *draw(st.lists(st.integers(0, videos - 1), max_size=6))]))
    cell = st.integers(-2, 2)
    vectors = [
        torch.tensor(draw(st.lists(st.lists(cell, min_size=2, max_size=2), min_size=rows, max_size=rows))).float()
        for rows in (len(owner), videos)
    ]
    present = torch.tensor(draw(st.lists(st.booleans(), min_size=videos, max_size=videos)))
    return vectors[0], vectors[1], torch.tensor(owner), present


@given(collections(), st.integers(1, 400))
@settings(max_examples=300, deadline=None)
def test_every_query_has_the_rank_of_the_definition(
    world: tuple[Tensor, Tensor, Tensor, Tensor], chunk_bytes: int
) -> None:
    texts, videos, owner, present = world
    scores = torch.where(present, texts @ videos.T, -torch.inf)
    expected = oracle(scores.tolist(), owner.tolist())
    last = (len(videos), len(videos), len(videos))
    expected = [triple if present[video] else last for triple, video in zip(expected, owner.tolist(), strict=True)]
    broken = torch.where(present[:, None], videos, torch.nan)
    assert triples(text_to_video(texts, broken, owner, present, chunk_bytes=chunk_bytes)) == expected

    best = [[max((videos[i] @ texts[owner == j].T).tolist()) for j in range(len(videos))] for i in range(len(videos))]
    reverse = [t if present[i] else last for i, t in enumerate(oracle(best, list(range(len(videos)))))]
    assert triples(video_to_text(texts, broken, owner, present, chunk_bytes=chunk_bytes)) == reverse


@pytest.mark.parametrize("name", RELEASED)
def test_bounds_are_those_of_the_reference_matrices(name: str) -> None:
    similarity, owner = matrix(name)
    exact = RELEASED[name]["exact_ranks_from_0"]
    for ranks, direction in zip(from_similarity(similarity, owner), ("t2v", "v2t"), strict=True):
        assert (ranks.optimistic - 1).tolist() == exact[f"{direction}_rank_ties_for"]
        assert (ranks.pessimistic - 1).tolist() == exact[f"{direction}_rank_ties_against"]


@pytest.mark.parametrize("name", NO_TIES)
def test_parity_with_the_released_metrics(name: str) -> None:
    """CLIP4Clip's recall, median and mean, and MV-Adapter's recall and mean, which count ranks from 0."""
    for ranks, direction in zip(from_similarity(*matrix(name)), ("text_to_video", "video_to_text"), strict=True):
        found = summary(ranks.expected)
        theirs = RELEASED[name]["clip4clip"][direction]
        for key, name_there in {"R@1": "R1", "R@5": "R5", "R@10": "R10", "MnR": "MeanR"}.items():
            assert found[key] == pytest.approx(theirs[name_there], abs=1e-4)
        # With several texts per video CLIP4Clip takes the lower middle of an even number as the median.
        if name != "multi_even" or direction == "video_to_text":
            assert found["MdR"] == theirs["MedianR"]
        other = RELEASED[name]["mv_adapter"][direction]
        assert found["R@1"] == pytest.approx(other["r1"], abs=1e-4)
        assert found["MnR"] == pytest.approx(other["mean"] + 1, abs=1e-4)


def test_ties_add_no_queries() -> None:
    """CLIP4Clip counts ten equal scores as a hundred queries and calls one in ten right."""
    ranks, _ = from_similarity(*matrix("all_equal"))
    assert len(ranks.expected) == 10
    assert summary(ranks.expected) == {"R@1": 0, "R@5": 0, "R@10": 100, "MdR": 5.5, "MnR": 5.5}
    assert ties(ranks).queries == 10
    ranks, _ = from_similarity(*matrix("ties_square"))
    assert len(ranks.expected) == 50


def test_equal_vectors_tie_whatever_the_chunk() -> None:
    """Copies of a vector at every place in a wide gallery have the same score to the last bit."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(37, 96, generator=generator), dim=1)
    videos = texts[:1].repeat(37, 1) + 0.1 * texts.roll(1, 0)[:1]
    for chunk in (1, 37 * 16 * 5, 2**20):
        ranks = text_to_video(texts, videos, torch.arange(37), chunk_bytes=chunk)
        assert set(ranks.optimistic.tolist()) == {1}
        assert set(ranks.pessimistic.tolist()) == {37}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_cannot_be_ranked_is_named(bad: float) -> None:
    texts, videos, owner = torch.ones(3, 2), torch.ones(2, 2), torch.tensor([0, 1, 1])
    videos[1, 0] = bad
    with pytest.raises(EvaluationError, match=r"^b: 1 video vector\(s\) with NaN or Inf"):
        text_to_video(texts, videos, owner, ids=["a", "b"])
    videos[1, 0] = 0
    texts[2, 1] = bad
    with pytest.raises(EvaluationError, match=r"^b: 1 text vector\(s\) with NaN or Inf"):
        video_to_text(texts, videos, owner, ids=["a", "b"])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_summary_is_the_definition(ranks: list[int]) -> None:
    found = summary(np.array(ranks))
    ordered, half = sorted(ranks), len(ranks) // 2
    middle = ordered[half] if len(ranks) % 2 else (ordered[half - 1] + ordered[half]) / 2
    assert found["MdR"] == middle
    assert found["MnR"] == pytest.approx(sum(ranks) / len(ranks), abs=1e-6)
    for k in (1, 5, 10):
        assert found[f"R@{k}"] == pytest.approx(100 * sum(rank <= k for rank in ranks) / len(ranks), abs=1e-6)


def released_ranks(similarity: Tensor) -> np.ndarray:
    """The rule of the released retrieval code: sort each row and take every place that equals the diagonal."""
    scores = similarity.numpy()
    ordered = np.sort(-scores, axis=1)
    right = np.diag(-scores)[:, None]
    return np.where(ordered - right == 0)[1] + 1


def one_caption_world(queries: int = 1000) -> tuple[Tensor, Tensor]:
    """Texts, and videos near them."""
    generator = torch.Generator().manual_seed(3)
    videos = torch.nn.functional.normalize(torch.randn(queries, 64, generator=generator), dim=1)
    texts = videos + 0.05 * torch.randn(queries, 64, generator=generator)
    return torch.nn.functional.normalize(texts, dim=1), videos


def test_the_released_rule_gives_the_same_ranks_for_distinct_scores() -> None:
    similarity = torch.rand(200, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ranks, _ = from_similarity(similarity, torch.arange(200))
    assert released_ranks(similarity).tolist() == ranks.expected.tolist()


def test_a_duplicated_video_adds_no_query() -> None:
    """With two equal videos, released code ranks 1002 queries. Here both have the mean of first and second place."""
    texts, videos = one_caption_world()
    videos[1] = videos[0]
    texts[:2] = videos[:2]
    ranks = text_to_video(texts, videos, torch.arange(1000))
    assert len(released_ranks(texts.double() @ videos.double().T)) == 1002
    assert len(ranks.expected) == 1000
    assert ranks.expected[:2].tolist() == [1.5, 1.5]
    assert (ranks.optimistic[0], ranks.pessimistic[0]) == (1, 2)


def test_queries_without_a_number_are_refused_not_dropped() -> None:
    texts, videos = one_caption_world()
    texts[[7, 9]] = torch.nan
    assert len(released_ranks(texts @ videos.T)) == 998
    with pytest.raises(EvaluationError, match=r"^v7, v9: 2 text vector\(s\) with NaN or Inf"):
        text_to_video(texts, videos, torch.arange(1000), ids=[f"v{number}" for number in range(1000)])


def test_unreadable_videos_do_not_multiply() -> None:
    """Half the gallery has no vector. Released code has zeros there and 250,500 ranks, of which one in 500 is right."""
    texts, videos = one_caption_world()
    present = torch.arange(1000) % 2 == 0
    videos[~present] = 0
    theirs = released_ranks(texts.double() @ videos.double().T)
    assert len(theirs) == 250_500
    assert 100 * np.mean(theirs <= 1) < 0.3
    for direction in (text_to_video, video_to_text):
        ranks = direction(texts, videos, torch.arange(1000), present)
        assert len(ranks.expected) == 1000
        assert summary(ranks.expected)["R@1"] == 50.0
        assert set(ranks.expected[1::2]) == {1000.0}


@pytest.mark.gpu
def test_a_gpu_gives_the_same_ranks() -> None:
    texts, videos = one_caption_world()
    owner = torch.arange(1000)
    for direction in (text_to_video, video_to_text):
        on_gpu = direction(texts.cuda(), videos.cuda(), owner.cuda())
        assert triples(on_gpu) == triples(direction(texts, videos, owner))
