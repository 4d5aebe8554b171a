"""The partial sort gives what a full stable sort gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.search.scores import Vectors

CPU = torch.device("cpu")


def by_full_sort(vectors: np.ndarray, query: np.ndarray, top: int) -> list[int]:
    scores = np.round(query @ vectors.T, 6)
    return [int(row) for row in np.argsort(-scores, kind="stable")[:top]]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 6), st.integers(0, 10**6))
def test_equal_to_a_full_sort_with_many_ties(count: int, top: int, kinds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few different vectors with exact products, so that whole groups of rows tie.
    vectors = np.eye(8, dtype=np.float32)[rng.integers(0, kinds, count)]
    query = rng.integers(0, 3, (1, 8)).astype(np.float32)
    found = Vectors([vectors], CPU).best(torch.from_numpy(query), top)[0]
    assert [row for row, _ in found] == by_full_sort(vectors, query[0], top)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 10**6), st.booleans())
def test_a_place_is_that_of_the_whole_ranking(count: int, kinds: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = np.eye(8, dtype=np.float32)[rng.integers(0, kinds, count)]
    query = rng.integers(0, 3, 8).astype(np.float32)
    if not ties:
        vectors, query = (rng.standard_normal(shape).astype(np.float32) for shape in ((count, 8), 8))
    gone = np.flatnonzero(rng.random(count) < 0.3)[: count - 1]
    half = count // 2
    searched = Vectors([vectors[:half], vectors[half:]], CPU, gone)
    whole = searched.best(torch.from_numpy(query)[None], count)[0]
    places = [searched.place(torch.from_numpy(query), row) for row, _ in whole]
    assert places == [(place, score) for place, (_, score) in enumerate(whole)]


def test_a_size_at_which_queries_go_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.search.scores.CHUNK_SCORES", 3000)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1000, 16)).astype(np.float32)
    queries = rng.standard_normal((8, 16)).astype(np.float32)
    found = Vectors([vectors], CPU).best(torch.from_numpy(queries), 5)
    assert [[row for row, _ in best] for best in found] == [by_full_sort(vectors, query, 5) for query in queries]


@pytest.mark.gpu
def test_a_gpu_finds_the_same_rows_among_100_000() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((100_000, 64)).astype(np.float32)
    queries = torch.from_numpy(rng.standard_normal((4, 64)).astype(np.float32))
    on_gpu = Vectors([vectors], torch.device("cuda")).best(queries, 10)
    on_cpu = Vectors([vectors], CPU).best(queries, 10)
    assert [[row for row, _ in best] for best in on_gpu] == [[row for row, _ in best] for best in on_cpu]
