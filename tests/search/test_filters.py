"""Conditions on rows, against the same condition in Python."""

from __future__ import annotations

import pyarrow as pa
import pytest

from components.errors import ReelTuneError
from components.search.filters import rows_where

TABLE = pa.table(
    {
        "video_id": ["a", "b", "c", "d"],
        "uri": ["data/holiday/a.mp4", "data/office/b.mp4", "s3://x/holiday/c.mkv", "data/d.mp4"],
        "start_seconds": [0.0, 10.0, 0.0, 0.0],
        "end_seconds": [5.0, 70.0, 3600.5, 2.0],
        "split": ["train", "test", "test", "val"],
        "year": pa.array([2019, 2021, 2022, None], pa.int64()),
        "place": ["Rome", "Oslo", None, "São Paulo"],
        "who is in it": ["Ann", "Bo", "Cy", "Di"],
        "sharp": [True, False, True, None],
    }
)


def found(condition: str) -> str:
    return "".join(name for name, held in zip("abcd", rows_where(condition, TABLE), strict=True) if held)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("year >= 2021", "bc"),
        ("2021 <= year", "bc"),
        ("2019 < year < 2022", "b"),
        ("year == 2021.0", "b"),
        ("year > -5", "abc"),
        ("year < 99999999999999999999", "abc"),
        ("year > -99999999999999999999", "abc"),
        ("not year >= 2021", "a"),
        ("year is None", "d"),
        ("year is not None and not sharp", "b"),
        ("sharp", "ac"),
        ("sharp == False", "b"),
        ("year >= 2021 or place == 'São Paulo'", "bcd"),
        ("year in (2019, 2022)", "ac"),
        ("year not in [2019]", "bc"),
        ("place in []", ""),
        ("place not in ['Rome', 'Oslo']", "d"),
        ('"holiday" in path', "ac"),
        ('"holiday" not in path', "bd"),
        ('path.startswith("data/") and path.endswith(".mp4")', "abd"),
        ("length > 59.5", "bc"),
        ("length <= 5", "ad"),
        ("id != 'a'", "bcd"),
        ("split == 'test' and length < 100", "b"),
        ("`who is in it` == 'Bo'", "b"),
        ("place == '`Rome`'", ""),
        ("start == end", ""),
        ("end >= start", "abcd"),
    ],
)
def test_rows_that_a_condition_holds_for(condition: str, expected: str) -> None:
    assert found(condition) == expected


def test_a_column_of_the_table_goes_before_a_word_of_ours() -> None:
    table = TABLE.append_column("length", pa.array([1, 2, 3, 4])).append_column("path", pa.array(list("wxyz")))
    assert rows_where("length == 2", table).tolist() == [False, True, False, False]
    assert rows_where("path == 'z'", table).tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("yaer >= 2021", r"where: no such column; found 'yaer'; expected one of .*place.*year.*did you mean 'year'"),
        ("`who is` == 'Bo'", r"no such column; found 'who is'"),
        ("year >= '2021'", r"the column year holds numbers, and is compared with '2021'.*without quotes"),
        ("place == Rome", r"no such column; found 'Rome'"),
        ("place > 3", r"the column place holds text, and is compared with 3.*in quotes"),
        ("sharp == 1", r"the column sharp holds True or False.*give True or False"),
        ("year == place", r"the column year holds numbers, and is compared with place"),
        ("3 in path", r"the column path holds text, and is compared with 3"),
        ("'2' in year", r"the column year holds numbers"),
        ("year", r"not a condition; found 'year'; expected =="),
        ("1 == 1", r"not a condition; found '1 == 1'"),
        ("year >= 2021 +", r"not a condition \(.*\); found"),
        ("year = 2021", r"not a condition \(.*\); found"),
        ("__import__('os').system('touch gone')", r"not a condition"),
        ("path.format('x')", r"not a condition"),
        ("[year for year in path]", r"not a condition"),
        ("(lambda: year)()", r"not a condition"),
        ("year >= 10 ** 9", r"not a condition"),
        ("", r"the condition is empty"),
        ("not " * 2400 + "sharp", r"nested too deeply|not a condition"),
        ("(" * 5000, r"nested too deeply|not a condition"),
        ("x" * 10_001, r"too long"),
        ("year\0", r"not a condition"),
        (f"year < 1{'0' * 400}", r"not a condition"),
    ],
)
def test_what_is_no_condition_is_one_sentence(condition: str, message: str) -> None:
    with pytest.raises(ReelTuneError, match=f"(?s){message}") as caught:
        rows_where(condition, TABLE)
    assert "\n" not in str(caught.value)
