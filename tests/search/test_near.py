"""The approximate index of faiss: what it proposes is scored exactly, and rows that are gone or new are found too."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_world
import torch
import trained_world
from numpy.typing import NDArray
from test_growing import VIDEOS, Stage, ids, restore
from tiny_world import TASK

from components.errors import DataError
from components.search import index as indexes
from components.search.card import SegmentCard
from components.search.near import Near, build_near, probed
from components.search.query import Searcher
from components.search.scores import Vectors

pytest.importorskip("faiss")

CPU = torch.device("cpu")
ROWS, DIMENSION, TOP = 8000, 24, 10


def clustered(count: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((100, DIMENSION))
    found = centres[rng.integers(0, len(centres), count)] + rng.standard_normal((count, DIMENSION))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Near, list[NDArray[np.float32]]]:
    """An approximate index of two segments, and their vectors with those of a third one that came later."""
    folder = tmp_path_factory.mktemp("near")
    blocks = [clustered(ROWS // 2, 0), clustered(ROWS // 2, 1)]
    card = build_near(folder, [SegmentCard("a", ROWS // 2, {}), SegmentCard("b", ROWS // 2, {})], blocks)
    assert (card.rows, card.segments) == (ROWS, ("a", "b"))
    return Near(folder / card.name, card, "run it again"), [*blocks, clustered(500, 2)]


@pytest.mark.parametrize("share_gone", [0.0, 0.15])
def test_rows_and_scores_are_those_of_the_exact_search(
    built: tuple[Near, list[NDArray[np.float32]]], share_gone: float
) -> None:
    near, blocks = built
    rng = np.random.default_rng(3)
    gone = np.flatnonzero(rng.random(ROWS + 500) < share_gone)
    queries = torch.from_numpy(clustered(200, 4))
    exact = Vectors(blocks, CPU, gone).best(queries, TOP)
    found = Vectors(blocks, CPU, gone, near).best(queries, TOP)
    shared = [len({row for row, _ in a} & {row for row, _ in b}) for a, b in zip(exact, found, strict=True)]
    assert np.mean(shared) / TOP > 0.97
    for one, other in zip(exact, found, strict=True):
        assert len(other) == TOP
        assert other == sorted(other, key=lambda hit: (-hit[1], hit[0]))
        scores = dict(one)
        assert all(scores[row] == score for row, score in other if row in scores)
    # A row of each kind finds itself: of either segment, and of the one that the approximate index does not hold.
    kept = np.setdiff1d(np.arange(ROWS + 500), gone)
    numbers = rng.choice(len(kept), 100, replace=False)
    themselves = torch.from_numpy(np.concatenate(blocks)[kept[numbers]])
    best = Vectors(blocks, CPU, gone, near).best(themselves, 1)
    assert [hits[0][0] for hits in best] == numbers.tolist()


def test_rows_that_are_gone_push_out_no_others(built: tuple[Near, list[NDArray[np.float32]]]) -> None:
    near, blocks = built
    query = torch.from_numpy(clustered(1, 5))
    # All windows of a film are gone, and the question is about it.
    gone = np.sort([row for row, _ in Vectors(blocks, CPU).best(query, 300)[0]])
    exact, found = (Vectors(blocks, CPU, gone, which).best(query, TOP)[0] for which in (None, near))
    assert len(found) == TOP
    assert len({row for row, _ in exact} & {row for row, _ in found}) >= 0.7 * TOP


@pytest.mark.parametrize(
    ("rows", "lists", "expected"), [(100_000, 1265, 64), (1_000_000, 4000, 28), (10**7, 12649, 24)]
)
def test_a_search_looks_at_a_bounded_part(rows: int, lists: int, expected: int) -> None:
    assert probed(rows, lists) == expected


def test_a_long_list_is_exact(built: tuple[Near, list[NDArray[np.float32]]]) -> None:
    near, blocks = built
    query = torch.from_numpy(clustered(1, 5))
    assert Vectors(blocks, CPU, None, near).best(query, 2000) == Vectors(blocks, CPU).best(query, 2000)


def test_the_stage_builds_it_by_the_setting_and_keeps_it_while_it_covers_enough(tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    tiny_world.write_params(root)
    tiny_world.write_backbone(root)
    tiny_world.write_store(root, VIDEOS)
    trained_world.add_adapter(root, tiny_world.params(root), "vop", 0)
    stage = Stage(root)
    names = []
    for videos, exact_rows in (
        (VIDEOS, 40),
        (VIDEOS, 30),
        (VIDEOS[:-3], 30),
        (VIDEOS, 30),
        (tiny_world.videos(4, 4, 50), 30),
    ):
        restore(root, videos)
        stage.recipe = indexes.Recipe(stage.recipe.adapter_sha256, stage.encoding, "the encoder", exact_rows)
        index = stage.publish()
        if exact_rows == 40:
            assert index.card.near is None
            continue
        assert index.card.near is not None
        names.append(index.card.near.name)
        assert [path.name for path in stage.folder.glob("near-*")] == [index.card.near.name]
        vectors = index.vectors_of(list(range(index.count)))
        best = index.searched(CPU).best(torch.from_numpy(vectors), 5)
        assert best == Vectors([vectors], CPU).best(torch.from_numpy(vectors), 5)
        assert sorted(ids(index)) == sorted(video.video_id for video in videos if video.split == "test")
    # Three rows that are gone, and three that came, are no reason to build it again. Ten more are.
    assert names[0] == names[1] == names[2] != names[3]
    searcher = Searcher.open(root, TASK)
    assert searcher.index.near is not None
    assert len(searcher.search("a red square moves right", 50)) == 50

    path = next(stage.folder.glob("near-*"))
    content = path.read_bytes()
    for damaged, fault in ((content[:-9], "damaged"), (b"x" * len(content), "damaged"), (None, "missing")):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"(?s){fault}.*index\.py --task tiny"):
            indexes.read(stage.folder)
    shutil.rmtree(stage.folder)
    assert stage.publish().count == 50
