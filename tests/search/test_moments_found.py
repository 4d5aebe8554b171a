"""Windows of long films: overlapping ones are one hit, and its span is narrowed to the frames that show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_world
import torch
from held_index import HeldIndex
from hypothesis import given, settings
from hypothesis import strategies as st

from components.methods.build import build
from components.moments import suppress
from components.search.backbones import shared_backbone
from components.search.query import Searcher
from components.search.question import Part, Question
from components.search.ranking import Ranking
from components.search.settings import SearchSettings

CPU = torch.device("cpu")


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def windows(films: int, each: int) -> list[dict[str, object]]:
    """Windows of two seconds that start every second."""
    return [
        {"video_id": f"f{film}@{n}", "uri": f"f{film}.mp4", "start_seconds": float(n), "end_seconds": n + 2.0}
        | {"window_of": f"f{film}"}
        for film in range(films)
        for n in range(each)
    ]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([0.0, 0.3, 0.4]), st.booleans(), st.booleans())
def test_a_grown_ranking_is_the_beginning_of_the_whole_one(
    seed: int, top: int, limit: float, folds: bool, filters: bool
) -> None:
    rng = np.random.default_rng(seed)
    rows = windows(5, 10)
    for place in rng.choice(50, 10, replace=False):
        rows[place]["window_of"] = None
    # In few dimensions, many vectors are alike.
    index = HeldIndex(rows, unit(rng.standard_normal((50, 3))))
    query = torch.from_numpy(unit(rng.standard_normal((1, 3))))
    mask = rng.random(50) < rng.choice([0.1, 0.6]) if filters else None
    ranking = Ranking(index.as_index, CPU, limit)
    near = 0.99 if folds else None
    everything = ranking.best(query, 1000, [mask], near)[0]
    found = ranking.best(query, top, [mask], near)[0]
    assert [(hit.row, hit.score) for hit in found] == [(hit.row, hit.score) for hit in everything[:top]]
    assert all(set(one.folded) <= set(other.folded) for one, other in zip(found, everything, strict=False))
    order = [row for row, _ in index.searched(CPU).best(query, 50)[0] if mask is None or mask[row]]
    spans = np.array([[rows[row]["start_seconds"], rows[row]["end_seconds"]] for row in order]).reshape(-1, 2)
    kept = suppress([rows[row]["window_of"] or row for row in order], spans, limit)
    if near is None:
        assert [hit.row for hit in everything] == [order[place] for place in kept]
    else:
        assert sorted(row for hit in everything for row in (hit.row, *hit.folded)) == sorted(order[p] for p in kept)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("long")
    tiny_world.write_project(root, 1, 1, 2)
    return root


@pytest.fixture(scope="module")
def parts(project: Path) -> tuple[Searcher, np.ndarray]:
    """A searcher for its method, and the vector of the sentence that the tests ask."""
    backbone = shared_backbone(tiny_world.params(project).backbone, project)
    method = build("zero_shot", {}, backbone, frames=4, words=16)
    searcher = Searcher(
        method, HeldIndex([{"video_id": "x"}], np.eye(1, backbone.spec.embed_dim, dtype=np.float32)).as_index
    )
    with torch.inference_mode():
        text = method.encode_text(backbone.tokenize(["a red square"], method.words))[0].numpy()
    return searcher, text


def towards(text: np.ndarray, cosines: np.ndarray, seed: int = 0) -> np.ndarray:
    """Vectors with these cosines to ``text``."""
    noise = np.random.default_rng(seed).standard_normal((len(cosines), len(text)))
    noise = unit(noise - (noise @ text)[:, None] * text)
    return (cosines[:, None] * text + np.sqrt(1 - cosines[:, None] ** 2) * noise).astype(np.float32)


def test_a_moment_is_one_hit_with_its_span(parts: tuple[Searcher, np.ndarray]) -> None:
    """Two films of ten windows. The moment is at 4.5 to 6 s of the first, and three windows see it."""
    searcher, text = parts
    scores = np.full(20, 0.1)
    scores[[3, 4, 5]] = 0.3, 0.5, 0.4
    scores[14] = 0.2
    times = np.arange(44) / 4 + 0.125
    frame_scores = np.where((times >= 4.5) & (times < 6), 0.6, 0.1)
    frames = towards(text, frame_scores, 1)
    rows, kept = windows(2, 10), {}
    for number, row in enumerate(rows[:10]):
        inside = (times >= row["start_seconds"]) & (times < row["end_seconds"])  # type: ignore[operator]
        kept[number] = times[inside], frames[inside]
    index = HeldIndex(rows, towards(text, scores), kept).as_index
    answers = Searcher(searcher.method, index, settings=SearchSettings("auto", 10, max_overlap=0.3))
    hits = answers.search("a red square", 3)
    assert [(hit.video_id, hit.window_of) for hit in hits[:2]] == [("f0@4", "f0"), ("f1@4", "f1")]
    assert (hits[0].start_seconds, hits[0].end_seconds) == (4.5, 6.0)
    # Frames of the other film are not kept.
    assert (hits[1].start_seconds, hits[1].end_seconds) == (4.0, 6.0)
    spans = [(hit.uri, hit.start_seconds, hit.end_seconds) for hit in answers.search("a red square", 100)]
    assert len(spans) < 20
    loose = Searcher(searcher.method, index, settings=SearchSettings("auto", 10, max_overlap=1.0))
    assert [hit.video_id for hit in loose.search("a red square", 3)] == ["f0@4", "f0@5", "f0@3"]


def test_more_like_a_window_leaves_out_what_overlaps_it(parts: tuple[Searcher, np.ndarray]) -> None:
    searcher, text = parts
    index = HeldIndex(windows(2, 10), towards(text, np.linspace(0.1, 0.9, 20))).as_index
    loose = Searcher(searcher.method, index, settings=SearchSettings("auto", 10, max_overlap=1.0))
    found = {hit.video_id for hit in loose.search(Question((Part("like", "f0@4"),)), 100)}
    assert found == {row["video_id"] for row in windows(2, 10)} - {"f0@3", "f0@4", "f0@5"}
    # The id of a film means all of its windows.
    films = {hit.window_of for hit in loose.search(Question((Part("like", "f0"),)), 100)}
    assert films == {"f1"}


def test_an_empty_index_answers_that_it_is_empty(parts: tuple[Searcher, np.ndarray]) -> None:
    searcher, text = parts
    empty = Searcher(searcher.method, HeldIndex([], np.zeros((0, len(text)), np.float32)).as_index)
    answer = empty.answer(["a red square"], 5)[0]
    assert list(answer.hits) == []
    assert list(answer.notes) == ["nothing found: the index has no videos"]
    assert list(empty.answer(["a red square"], 5, where="length > 3")[0].hits) == []
