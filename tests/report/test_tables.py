from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import DataError
from components.report import tables


def record(method: str, seed: int, value: float, parts: tuple[str, ...] = ("all", "temporal")) -> dict[str, Any]:
    figures = {"R@1": value, "R@5": value, "R@10": value, "MdR": 101 - value, "MnR": 101 - value}
    return {
        "task": "clips",
        "method": method,
        "seed": seed,
        "metrics": {part: {"t2v": figures, "v2t": figures} for part in parts},
        "trainable_parameters": 1234,
        "backbone_share": 0.0125,
        "artifact_bytes": 20500,
        "training_seconds": 61.4,
    }


def test_a_table_per_part_of_the_test_set_the_whole_first() -> None:
    made = tables.tables_of([record("vop", 0, 10.0), record("mv_adapter", 0, 20.0)], "clips")
    assert [table.title for table in made] == ["clips: whole test set", "clips: temporal part of the test set"]
    assert made[0].rows[0] == ["vop", *["10.0", "10.0", "10.0", "91.0", "91.0"] * 2, "1,234", "1.25%", "20.5 KB", "61"]
    assert len(made[1].rows[0]) == len(made[1].head) == 11


def test_rescored_figures_stand_only_in_their_own_table() -> None:
    one, two = record("vop", 0, 10.0), record("mv_adapter", 0, 20.0)
    better = {"R@1": 77.7, "R@5": 88.8, "R@10": 99.9, "MdR": 1.0, "MnR": 2.0}
    two["rescored"] = {"dual_softmax": {"uses": "all queries of the split at once", "t2v": better, "v2t": better}}
    made = tables.tables_of([one, two], "clips")
    assert made[:2] == tables.tables_of([one, {**two, "rescored": {}}], "clips")
    assert [table.title for table in made[2:]] == ["clips: whole test set, RE-SCORED by dual_softmax"]
    assert [row[0] for row in made[2].rows] == ["mv_adapter"]
    assert made[2].notes == ("uses all queries of the split at once: not comparable with plain figures",)
    for shown in (tables.plain(made[2]), tables.markdown(made[2])):
        assert made[2].notes[0] in shown
        assert "77.7" in shown
    assert "77.7" not in "".join(tables.plain(table) + tables.markdown(table) for table in made[:2])


def test_a_warning_of_a_card_stands_above_its_tables() -> None:
    chosen = {**record("vop", 0, 10.0), "warnings": ["chosen on test"]}
    for table in tables.tables_of([chosen, record("mv_adapter", 0, 20.0)], "clips"):
        assert table.notes == ("WARNING (vop): chosen on test",)
        assert "WARNING (vop): chosen on test" in tables.plain(table)


def test_several_seeds_give_mean_and_spread() -> None:
    made = tables.tables_of([record("vop", 0, 10.0), record("vop", 1, 20.0)], "clips")
    assert made[0].rows[0][1] == "15.0±7.1"
    assert "over seeds 0, 1" in made[0].title


@given(st.lists(st.floats(0, 100), min_size=2, max_size=5))
def test_the_best_of_each_column_is_marked(values: list[float]) -> None:
    records = [record(f"m{number}", 0, value) for number, value in enumerate(values)]
    table = tables.tables_of(records, "clips")[0]
    for column in range(1, 11):
        shown = [float(row[column]) for row in table.rows]
        best = max(shown) if table.head[column].startswith("R@") else min(shown)
        assert [marks[column] for marks in table.best] == [value == best for value in shown]


def test_text_columns_are_aligned() -> None:
    text = tables.plain_all([record("vop", 0, 10.0), record("mv_adapter", 0, 100.0)])
    lines = text.split("\n\n")[0].splitlines()
    assert len({len(line) for line in lines[1:]}) == 1
    assert lines[2].split()[:3] == ["method", "R@1", "R@5"]


def test_markdown_has_equal_cells_per_line() -> None:
    lines = [line for line in tables.markdown_all([record("vop", 0, 10.0)]).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[:3]}) == 1
    assert "t2v R@1" in lines[0]
    assert "v2t MnR" in lines[0]


def test_rows_for_plots_and_metrics_for_dvc() -> None:
    records = [record("vop", 0, 10.0), record("vop", 1, 20.0)]
    rows = tables.recall_rows(records)
    assert len(rows) == 2 * 2 * 2
    assert {"task", "method", "seed", "direction", "subset", "R@1"} <= set(rows[0])
    assert tables.metric_tree(records)["clips"]["vop"]["temporal t2v R@1"] == 15.0


def test_what_is_missing_is_told_apart_from_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no scorecards"):
        tables.read_records(tmp_path, [("clips", "vop", 0)])
    adapter, cards = tmp_path / "outputs/adapters/clips/vop-0", tmp_path / "outputs/scorecards/clips/vop-0"
    for folder in (adapter, cards):
        folder.mkdir(parents=True)
    done = record("vop", 0, 10.0)
    card = {"split": "test", **{key: done[key] for key in ("task", "method", "seed", "metrics")}}
    (cards / "test.json").write_text(json.dumps(card))
    (adapter / "training.json").write_text('{"seconds": 3.0}')
    (adapter / "adapter.json").write_text('{"trainable": 5, "share": 0.5}')
    (adapter / "adapter.safetensors").write_bytes(b"x" * 100)
    records, missing = tables.read_records(tmp_path, [("clips", "vop", 0), ("clips", "vop", 1)])
    assert missing == ["clips/vop-1"]
    assert records[0]["artifact_bytes"] == 100 + (adapter / "adapter.json").stat().st_size
    assert records[0]["training_seconds"] == 3.0
    (cards / "test.json").write_text(json.dumps({**card, "metrics": {"all": {"t2v": {"R@1": "ten"}}}}))
    with pytest.raises(DataError, match=r"(?s)test\.json.*metrics\.all\.t2v\.R@1"):
        tables.read_records(tmp_path, [("clips", "vop", 0)])
    (cards / "test.json").write_text("{")
    with pytest.raises(DataError, match=r"test\.json: not JSON"):
        tables.read_records(tmp_path, [("clips", "vop", 0)])


def test_recall_csv_reads_back(tmp_path: Path) -> None:
    from components.report.page import _csv

    rows = list(csv.DictReader(_csv(tables.recall_rows([record("vop", 0, 12.5)])).splitlines()))
    assert rows[0]["R@1"] == "12.5"
    assert [row["subset"] for row in rows] == ["all", "all", "temporal", "temporal"]
