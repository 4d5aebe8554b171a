from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.benchmarks import didemo
from components.errors import ConfigError, DataError
from components.manifest import Manifest

NAMES = {
    "train": ["12090392@N02_13482799053_87ef417396.mov", "10015@N00_1_0123456789.avi"],
    "val": ["54322086@N00_2408598493_274c77d26a.AVI"],
    "test": ["77036672@N00_4012_5a3bf6c5b6.m4v"],
}


def rows(*names: str) -> list[dict[str, object]]:
    return [
        {"video": name, "description": f" {word}\nof it. ", "times": [[0, 0], [1, 1]], "annotation_id": 3}
        for word in ("first", "second")
        for name in names
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, names in NAMES.items():
        (tmp_path / f"{split}_list.txt").write_text("".join(f"{name}\n" for name in names))
        (tmp_path / f"{split}_data.json").write_text(json.dumps(rows(*names)))
    (tmp_path / "videos").mkdir()
    return tmp_path


def read(folder: Path, **options: object) -> Manifest:
    return didemo.read("small", str(folder), dict(options))


def test_descriptions_become_one_paragraph(folder: Path) -> None:
    manifest = read(folder)
    manifest.check()
    ids = {split: [video.video_id for video in manifest.split(split)] for split in NAMES}
    assert ids == {split: [name.rpartition(".")[0] for name in names] for split, names in NAMES.items()}
    assert {video.captions for video in manifest.videos} == {("first of it. second of it.",)}
    assert manifest.videos[0].uri == str(folder / "videos" / NAMES["train"][0])
    assert "test has 1 videos, published are 1,004" in didemo.PUBLISHED.differences(manifest)


@pytest.mark.parametrize("file", [NAMES["train"][0], NAMES["train"][0] + ".mp4", NAMES["train"][0][:-4] + ".mp4"])
def test_files_have_their_name_an_added_ending_or_another(folder: Path, file: str) -> None:
    (folder / "videos" / file).write_bytes(b"-")
    video = read(folder).videos[0]
    assert (video.video_id, video.uri) == (NAMES["train"][0][:-4], str(folder / "videos" / file))


def test_lists_may_have_the_added_ending_too(folder: Path) -> None:
    wanted = [video.video_id for video in read(folder).videos]
    for split, names in NAMES.items():
        (folder / f"{split}_list.txt").write_text("".join(f"{name}.mp4\r\n" for name in names))
    assert [video.video_id for video in read(folder).videos] == wanted


def test_files_that_are_lost_are_left_out_unless_they_are_there(folder: Path) -> None:
    lost = [name + ending for name, ending in zip(didemo.LOST, (".3gp", ".mpg", ".3gp"), strict=True)]
    names = [*NAMES["train"], *lost]
    (folder / "train_list.txt").write_text("\n".join(names))
    (folder / "train_data.json").write_text(json.dumps(rows(*names)))
    (folder / "videos" / (lost[1] + ".mp4")).write_bytes(b"-")
    manifest = read(folder)
    kept = [video.video_id for video in manifest.split("train")]
    assert kept == [*(name[:-4] for name in NAMES["train"]), didemo.LOST[1]]
    assert manifest.notes == (f"files that other implementations drop too are left out: {lost[0]}, {lost[2]}",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test_list.txt", "a.mp4\na.mov\n", r"test_list\.txt:2: video id occurs twice; found 'a'.*line 1"),
        ("test_list.txt", "a/b.mp4\n", r"test_list\.txt:1: .*not usable as a file name"),
        ("test_list.txt", "other.mp4\n", r"test_data\.json: listed videos without a description; found 'other'"),
        ("test_data.json", "{}", r"test_data\.json: unexpected JSON; found 'dict'; expected list"),
        ("test_data.json", '[{"video": "a.mp4"}]', r"test_data\.json entry 1: not in the form of DiDeMo"),
        ("test_data.json", '[{"video": "a.mp4", "description": " "}]', r"entry 1 a\.mp4: empty caption; found ' '"),
        ("val_list.txt", NAMES["test"][0], r"val_data\.json: listed videos without a description"),
    ],
)
def test_damaged_files_are_named(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read(folder)


def test_missing_files_overlaps_and_options_are_named(folder: Path) -> None:
    (folder / "val_list.txt").write_text(NAMES["test"][0])
    (folder / "val_data.json").write_text(json.dumps(rows(*NAMES["test"])))
    with pytest.raises(DataError, match="two splits; found '77036672@N00_4012_5a3bf6c5b6'"):
        read(folder).check()
    (folder / "val_data.json").unlink()
    with pytest.raises(DataError, match=r"val_data\.json: no such file"):
        read(folder)
    with pytest.raises(ConfigError, match="unknown option"):
        read(folder, val_share=0.1)
