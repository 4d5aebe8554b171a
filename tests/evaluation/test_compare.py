"""The paired comparison: symmetric, zero against itself, and refused if the test is not the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trained_world
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import run_script

from components.errors import EvaluationError
from components.evaluation.compare import compare, compare_ranks, describe, p_value, scorecard_folder

PAIRS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(0, 5)), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    trained_world.write_trained(folder)
    return folder


def folders(root: Path) -> tuple[Path, Path]:
    return scorecard_folder(root, "tiny/vop-0"), scorecard_folder(root, "tiny/mv_adapter-0")


@given(PAIRS)
@settings(max_examples=50, deadline=None)
def test_swapping_flips_signs_and_itself_is_zero(rows: list[tuple[int, int, int]]) -> None:
    a, b, video = (np.array(column) for column in zip(*rows, strict=True))
    forth, back = compare_ranks(a, b, video, "t2v", 120), compare_ranks(b, a, video, "t2v", 120)
    for one, other in zip(forth, back, strict=True):
        assert (one.a, one.b) == (other.b, other.a)
        assert one.difference == -other.difference
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=2e-6)
        assert one.p == other.p
        assert 0 < one.p <= 1
    for row in compare_ranks(a, a, video, "t2v", 120):
        assert (row.difference, row.low, row.high, row.p) == (0, 0, 0, 1)


def test_real_scorecards_against_themselves_and_each_other(root: Path) -> None:
    a, b = folders(root)
    same = compare(a, a, "test", 200)
    assert {(row.difference, row.low, row.high, row.p) for row in same.differences} == {(0.0, 0.0, 0.0, 1.0)}
    assert same.changes == []
    assert "no query changed" in describe(same)
    forth, back = compare(a, b, "test", 200), compare(b, a, "test", 200)
    assert [row.difference for row in forth.differences] == [-row.difference for row in back.differences]
    assert [(c.video_id, c.rank_a, c.rank_b) for c in forth.changes] == [
        (c.video_id, c.rank_b, c.rank_a) for c in back.changes
    ]
    moved = [abs(change.rank_a - change.rank_b) for change in forth.changes]
    assert moved == sorted(moved, reverse=True)
    assert moved
    card = json.loads((b / "test.json").read_text())
    assert {(row.direction, row.metric): row.b for row in forth.differences} == {
        (direction, metric): value for direction, row in card["metrics"]["all"].items() for metric, value in row.items()
    }


def test_a_clear_difference_is_clear_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    ranks, video = rng.integers(1, 30, 400).astype(float), np.arange(400)
    better = {row.metric: row for row in compare_ranks(ranks, np.maximum(1, ranks - 4), video, "t2v", 500)}
    assert better["R@1"].low > 0
    assert better["R@1"].p == pytest.approx(2 / 501)
    assert better["MnR"].high < 0
    noise = {row.metric: row for row in compare_ranks(ranks, rng.permutation(ranks), video, "t2v", 500)}
    assert noise["MnR"].low < 0 < noise["MnR"].high
    assert noise["MnR"].p > 0.05


def test_p_is_uniform_where_there_is_no_difference() -> None:
    """Of 200 pairs that differ by chance only, about one in ten has a p below 0.1."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(200):
        a, b = rng.geometric(0.3, (2, 100)).astype(float)
        found.append(next(r.p for r in compare_ranks(a, b, np.arange(100), "t2v", 200) if r.metric == "MnR"))
    assert 8 <= sum(p < 0.1 for p in found) <= 36
    assert 70 <= sum(p < 0.5 for p in found) <= 130


def test_p_counts_both_sides() -> None:
    assert p_value(np.zeros(99)) == 1.0
    assert p_value(np.ones(99)) == pytest.approx(2 / 100)
    assert p_value(np.array([-1.0] * 9 + [1.0] * 90)) == pytest.approx(20 / 100)


def changed(folder: Path, path: Path, card: dict[str, object], column: str | None = None) -> Path:
    """A copy of a scorecard folder with fields of the card, or the first cell of a column of the ranks, replaced."""
    path.mkdir()
    original = json.loads((folder / "test.json").read_text())
    (path / "test.json").write_text(json.dumps({**original, **card}))
    table = pq.read_table(folder / "test-ranks.parquet")
    if column:
        values = table[column].to_pylist()
        values[0] = {"video_id": "other", "caption": "other", "decoded": False}[column]
        index = table.schema.get_field_index(column)
        table = table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))
    pq.write_table(table, path / "test-ranks.parquet")
    return path


@pytest.mark.parametrize(
    ("card", "column", "named"),
    [
        ({"gallery": 9}, None, r"differ in gallery.*found '8 and 9'"),
        ({"queries": 7}, None, r"differ in queries.*found '8 and 7'"),
        ({"split": "val"}, None, "differ in split.*'test and val'"),
        ({"failed_videos": 1}, None, "differ in failed_videos"),
        ({}, "caption", r"differ in captions of the queries, row 0.*and 'other'"),
        ({}, "video_id", r"differ in videos of the queries, row 0"),
        ({}, "decoded", r"differ in decoded videos of the queries, row 0"),
    ],
)
def test_what_differs_first_is_named(
    root: Path, tmp_path: Path, card: dict[str, object], column: str | None, named: str
) -> None:
    a, b = folders(root)
    with pytest.raises(EvaluationError, match=named):
        compare(a, changed(b, tmp_path / "other", card, column), "test", 100)


def test_another_protocol_is_refused_by_its_field(root: Path, tmp_path: Path) -> None:
    a, b = folders(root)
    protocol = json.loads((b / "test.json").read_text())["protocol"]
    other = changed(b, tmp_path / "other", {"protocol": {**protocol, "variant": "full"}})
    with pytest.raises(EvaluationError, match=r"differ in protocol\.variant, .*found 'tiny and full'"):
        compare(a, other, "test", 100)


def test_the_command(root: Path) -> None:
    done = run_script("compare.py", root, "--split", "val", "tiny/vop-0", "tiny/mv_adapter-0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("A = vop-0, B = mv_adapter-0, split val, gallery of 8 videos\n")
    assert "paired bootstrap over videos, 1000 resamples" in done.stdout
    assert "queries that changed most" in done.stdout
    done = run_script("compare.py", root, "--split", "val", "tiny/vop-0", "tiny/none-0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: tiny/none-0: no scorecards; expected a folder at ")
