"""The tables: cells, best values, notes, and the results that they are made from."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import trained_world
from hypothesis import given
from hypothesis import strategies as st
from trained_world import TASK

from components.errors import DataError, EvaluationError
from components.evaluation.card import Binary, Moments, Rescored
from components.layout import Layout
from components.report import tables
from components.report.results import AdapterResult, collect_results, read_results, write_results


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    trained_world.write_trained(folder, ("vop",))
    return folder


def result(method: str, seed: int, value: float, parts: tuple[str, ...] = ("all", "temporal")) -> AdapterResult:
    metrics = {"R@1": value, "R@5": value, "R@10": value, "MdR": 101 - value, "MnR": 101 - value}
    return AdapterResult(
        task="clips",
        method=method,
        seed=seed,
        metrics={part: {"t2v": metrics, "v2t": metrics} for part in parts},
        trainable_parameters=1234,
        backbone_share=0.0125,
        artifact_bytes=20500,
        training_seconds=61.4,
    )


def test_a_table_per_part_of_the_test_set_the_whole_first() -> None:
    made = tables.tables_of([result("vop", 0, 10.0), result("mv_adapter", 0, 20.0)], "clips")
    assert [table.title for table in made] == ["clips: whole test set", "clips: temporal part of the test set"]
    assert made[0].rows[0] == ["vop", *["10.0", "10.0", "10.0", "91.0", "91.0"] * 2, "1,234", "1.25%", "20.5 KB", "61"]
    assert len(made[1].rows[0]) == len(made[1].head) == 11


def test_reversals_have_a_table_if_all_results_have_them(tmp_path: Path) -> None:
    one, two = result("vop", 0, 10.0), result("mv_adapter", 0, 20.0)
    assert len(tables.tables_of([one, two], "clips")) == 2
    one, two = (
        dataclasses.replace(some, binary={key: binary(value) for key in ("t2v", "v2t")})
        for some, value in ((one, 50.0), (two, 61.25))
    )
    made = tables.tables_of([one, two], "clips")[2]
    assert made.title == "clips: forward or backward, accuracy in percent (chance is 50)"
    assert made.head == ["method", "text to video", "video to text"]
    assert made.rows == [["vop", "50.0", "50.0"], ["mv_adapter", "61.2", "61.2"]]
    assert made.best == [[False, False, False], [False, True, True]]
    assert "| mv_adapter | **61.2** | **61.2** |" in tables.markdown(made)
    assert "mv_adapter           61.2           61.2" in tables.plain(made)
    write_results(tmp_path / "results.json", [one, two])
    assert read_results(tmp_path / "results.json") == [one, two]
    write_results(tmp_path / "results.json", [result("vop", 0, 10.0)])
    assert "binary" not in (tmp_path / "results.json").read_text()


def test_moments_have_a_table_with_the_whole_video_as_the_first_answer(tmp_path: Path) -> None:
    one, two, old = result("vop", 0, 10.0), result("mv_adapter", 0, 20.0), result("full", 0, 30.0)
    one, two = (dataclasses.replace(some, moments=moments(value)) for some, value in ((one, 50.0), (two, 61.25)))
    made = tables.tables_of([one, two, old], "clips")[2]
    assert made.title == "clips: moments, 1,200 texts found within their 400 videos"
    assert made.head == ["answer", "R1@0.5", "mAP"]
    assert made.rows == [["whole video", "5.0", "2.5"], ["vop", "50.0", "50.0"], ["mv_adapter", "61.2", "61.2"]]
    assert made.best == [[False] * 3, [False] * 3, [False, True, True]]
    assert "| mv_adapter | **61.2** | **61.2** |" in tables.markdown(made)
    assert [table.title for table in tables.tables_of([old], "clips")] == [
        table.title for table in tables.tables_of([one, two, old], "clips") if "moments" not in table.title
    ]
    write_results(tmp_path / "results.json", [one, old])
    assert read_results(tmp_path / "results.json") == [one, old]
    assert (tmp_path / "results.json").read_text().count('"moments"') == 1


def moments(value: float) -> Moments:
    return Moments(
        queries=1200,
        videos=400,
        failed_videos=0,
        metrics={"R1@0.5": value, "mAP": value},
        intervals={"R1@0.5": (value, value), "mAP": (value, value)},
        whole_video={"R1@0.5": 5.0, "mAP": 2.5},
        rule="runs of frames",
    )


def binary(accuracy: float) -> Binary:
    return Binary(queries=4, accuracy=accuracy, interval=(accuracy, accuracy), tied=0)


def test_rescored_metrics_are_only_in_a_separate_table() -> None:
    one, two = result("vop", 0, 10.0), result("mv_adapter", 0, 20.0)
    better = {"R@1": 77.7, "R@5": 88.8, "R@10": 99.9, "MdR": 1.0, "MnR": 2.0}
    plain_two = two
    block = Rescored(uses="all queries of the split at once", settings={}, t2v=better, v2t=better)
    two = dataclasses.replace(two, rescored={"dual_softmax": block})
    made = tables.tables_of([one, two], "clips")
    assert made[:2] == tables.tables_of([one, plain_two], "clips")
    assert [table.title for table in made[2:]] == ["clips: whole test set, RE-SCORED by dual_softmax"]
    assert [row[0] for row in made[2].rows] == ["mv_adapter"]
    assert made[2].notes == ("uses all queries of the split at once: not comparable with plain figures",)
    for shown in (tables.plain(made[2]), tables.markdown(made[2])):
        assert made[2].notes[0] in shown
        assert "77.7" in shown
    assert "77.7" not in "".join(tables.plain(table) + tables.markdown(table) for table in made[:2])


def test_a_warning_of_a_card_is_above_its_tables() -> None:
    chosen = dataclasses.replace(result("vop", 0, 10.0), warnings=("chosen on test",))
    for table in tables.tables_of([chosen, result("mv_adapter", 0, 20.0)], "clips"):
        assert table.notes == ("WARNING (vop): chosen on test",)
        assert "WARNING (vop): chosen on test" in tables.plain(table)


def test_several_seeds_give_mean_and_spread() -> None:
    made = tables.tables_of([result("vop", 0, 10.0), result("vop", 1, 20.0)], "clips")
    assert made[0].rows[0][1] == "15.0±7.1"
    assert "over seeds 0, 1" in made[0].title


@given(st.lists(st.floats(0, 100), min_size=2, max_size=5))
def test_the_best_of_each_column_is_marked(values: list[float]) -> None:
    results = [result(f"m{number}", 0, value) for number, value in enumerate(values)]
    table = tables.tables_of(results, "clips")[0]
    for column in range(1, 11):
        shown = [float(row[column]) for row in table.rows]
        best = max(shown) if table.head[column].startswith("R@") else min(shown)
        assert [marks[column] for marks in table.best] == [value == best for value in shown]


def test_text_columns_are_aligned() -> None:
    text = tables.plain_all([result("vop", 0, 10.0), result("mv_adapter", 0, 100.0)])
    lines = text.split("\n\n")[0].splitlines()
    assert len({len(line) for line in lines[1:]}) == 1
    assert lines[2].split()[:3] == ["method", "R@1", "R@5"]


def test_markdown_has_equal_cells_per_line() -> None:
    lines = [line for line in tables.markdown_all([result("vop", 0, 10.0)]).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[:3]}) == 1
    assert "t2v R@1" in lines[0]
    assert "v2t MnR" in lines[0]


def test_rows_for_plots_and_metrics_for_dvc() -> None:
    results = [result("vop", 0, 10.0), result("vop", 1, 20.0)]
    rows = tables.recall_rows(results)
    assert len(rows) == 2 * 2 * 2
    assert {"task", "method", "seed", "direction", "subset", "R@1"} <= set(rows[0])
    assert tables.mean_metrics(results)["clips"]["vop"]["temporal t2v R@1"] == 15.0


def test_what_is_missing_is_named_and_nothing_at_all_is_an_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no scorecards"):
        collect_results(tmp_path, [(TASK, "vop", 0)])
    results, missing = collect_results(root, [(TASK, "vop", 0), (TASK, "vop", 1)])
    assert missing == [f"{TASK}/vop-1"]
    assert [(found.method, found.seed, found.training_seconds) for found in results] == [("vop", 0, 1.5)]
    folder = Layout(root).adapter(TASK, "vop", 0)
    files = [folder / name for name in ("adapter.json", "adapter.safetensors")]
    assert results[0].artifact_bytes == sum(path.stat().st_size for path in files)


def test_a_damaged_scorecard_is_named(root: Path) -> None:
    path = Layout(root).scorecards(TASK, "vop", 0) / "test.json"
    whole = path.read_text(encoding="utf-8")
    path.write_text("{")
    with pytest.raises(EvaluationError, match=r"test\.json: not JSON"):
        collect_results(root, [(TASK, "vop", 0)])
    path.write_text(whole)


def test_results_come_back_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(DataError, match="no report yet; dvc repro"):
        read_results(path)
    block = Rescored(uses="a bank", settings={"beta": 20.0, "top": 1}, t2v={"R@1": 1.0}, v2t={"R@1": 2.0})
    results = [dataclasses.replace(result("vop", 0, 10.0), rescored={"qb_norm": block}), result("vop", 1, 20.0)]
    write_results(path, results)
    assert read_results(path) == results
    tree = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps([{**tree[0], "seed": "0"}]), encoding="utf-8")
    with pytest.raises(DataError, match=r"damaged, 1 fault\(s\), the first at 0\.seed: .*; dvc repro"):
        read_results(path)


def test_recall_csv_reads_back(tmp_path: Path) -> None:
    from components.report.page import _csv

    rows = list(csv.DictReader(_csv(tables.recall_rows([result("vop", 0, 12.5)])).splitlines()))
    assert rows[0]["R@1"] == "12.5"
    assert [row["subset"] for row in rows] == ["all", "all", "temporal", "temporal"]
