"""Further columns of a person's table are facts of its videos, with the kind of their values."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.benchmarks import table
from components.manifest import Manifest
from components.video import Fact, Facts

VIDEOS = ("a", "b", "c")


def read(folder: Path, name: str = "captions.csv") -> Manifest:
    return table.read("mine", str(folder), {"file": name})


def facts(manifest: Manifest, name: str) -> list[Fact | None]:
    return [video.facts.get(name) for video in manifest.videos]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("2019", "-3", "0"), [2019, -3, 0]),
        (("2019", "0.5", "1e3"), [2019.0, 0.5, 1000.0]),
        (("true", "False", "TRUE"), [True, False, True]),
        (("01067", "2", "3"), ["01067", "2", "3"]),
        (("9" * 19, "2", "3"), [float("9" * 19), 2.0, 3.0]),
        (("nan", "1", "2"), ["nan", "1", "2"]),
        (("", "1", "2"), [None, 1, 2]),
        (("", "", ""), [None, None, None]),
        (("Süd", "nord", "1"), ["Süd", "nord", "1"]),
    ],
)
def test_a_column_of_csv_has_the_kind_of_all_its_values(
    tmp_path: Path, texts: tuple[str, ...], expected: list[Fact | None]
) -> None:
    rows = "".join(f"{name}.mp4,about {name},{text}\n" for name, text in zip(VIDEOS, texts, strict=True))
    manifest = read_text(tmp_path, "video,caption,fact\n" + rows)
    found = facts(manifest, "fact")
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]
    assert manifest.notes == ()
    assert Manifest.from_table(manifest.to_table()) == manifest


def read_text(folder: Path, text: str) -> Manifest:
    (folder / "captions.csv").write_text(text)
    return read(folder)


def test_all_rows_of_a_video_agree_or_the_column_is_left_out(tmp_path: Path) -> None:
    text = "video,caption,year,who\na.mp4,one,2020,ann\na.mp4,two,2020,bob\nb.mp4,three,2021,ann\nc.mp4,four,,ann\n"
    manifest = read_text(tmp_path, text)
    assert [dict(video.facts) for video in manifest.videos] == [{"year": 2020}, {"year": 2021}, {}]
    assert manifest.notes == ("columns of captions.csv that are not read, since rows of one video differ in them: who",)


def test_parts_of_a_file_have_their_facts(tmp_path: Path) -> None:
    text = "video,caption,start,end,scene\na.mp4,x,0,2,1\na.mp4,y,2,4,2\nb.mp4,z,,,3\nc.mp4,w,,,4\n"
    manifest = read_text(tmp_path, text)
    assert {video.video_id: video.facts["scene"] for video in manifest.videos} == {
        "a@0-2": 1, "a@2-4": 2, "b": 3, "c": 4,
    }  # fmt: skip


def test_values_of_json_keep_their_kind(tmp_path: Path) -> None:
    rows = [
        {"video": "a.mp4", "caption": "x", "n": 1, "x": 1, "yes": True, "code": "07", "mixed": 1, "big": 2**63},
        {"video": "b.mp4", "caption": "y", "n": 2, "x": 0.5, "yes": False, "code": "8", "mixed": "1", "tags": ["t"]},
        {"video": "c.mp4", "caption": "z", "n": None, "yes": True, "uri": "u"},
    ]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = read(tmp_path, "captions.jsonl")
    assert [dict(video.facts) for video in manifest.videos] == [
        {"n": 1, "x": 1.0, "yes": True, "code": "07"},
        {"n": 2, "x": 0.5, "yes": False, "code": "8"},
        {"yes": True},
    ]
    why = dict(
        note.removeprefix("columns of captions.jsonl that are not read, since ").split(": ") for note in manifest.notes
    )
    assert why == {
        "their values are of several kinds": "mixed",
        "a number is too large": "big",
        "their values are not numbers, texts, true or false": "tags",
        "a search has a column of this name": "uri",
    }


def test_columns_of_parquet_that_are_no_facts_are_not_even_read(tmp_path: Path) -> None:
    columns = {
        "video": [f"{name}.mp4" for name in VIDEOS],
        "caption": list(VIDEOS),
        "year": pa.array([1, 2, None], pa.uint16()),
        "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
        "day": [datetime.date(2020, 1, 1)] * 3,
        "vector": [[0.5] * 4] * 3,
    }
    pq.write_table(pa.table(columns), tmp_path / "captions.parquet")
    manifest = read(tmp_path, "captions.parquet")
    assert [dict(video.facts) for video in manifest.videos] == [
        {"year": 1, "kind": "x"}, {"year": 2, "kind": "y"}, {"kind": "x"},
    ]  # fmt: skip
    assert manifest.notes == (
        "columns of captions.parquet that are not read, since their values are not numbers, texts, true or false: "
        "day, vector",
    )


def test_a_table_without_further_columns_has_the_manifest_that_it_had(tmp_path: Path) -> None:
    manifest = read_text(tmp_path, "video,caption\na.mp4,x\nb.mp4,y\nc.mp4,z\n")
    assert "facts" not in manifest.to_table().schema.names
    assert manifest.videos[0].to_row().keys().isdisjoint({"facts", "window_of"})
    # Of the release before there were facts.
    named = dataclasses.replace(
        manifest, videos=tuple(dataclasses.replace(v, uri=Path(v.uri).name) for v in manifest.videos)
    )
    assert named.fingerprint() == "d7f6ea3983b278b914177873d9e4f3926fc705ca5b390f1c32cf370cb2b3beb6"
    assert hash(Facts((("a", 1),))) == hash(Facts((("a", 1),)))
