"""RTime: originals and reversals, at the size of the published validation and test files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.benchmarks import rtime
from components.benchmarks.check import check
from components.errors import ConfigError, DataError
from components.manifest import Manifest
from components.task import TaskSettings


def entry(number: int, **changes: object) -> dict[str, object]:
    return {
        "temporal": True,
        "reverse": True,
        "forward_captions": [f"opens {number}"],
        "reverse_captions": [f"closes {number}"],
        "forward_rewrites": [f"opens {number} {k}" for k in range(9)],
        "reverse_rewrites": [f"closes {number} {k}" for k in range(9)],
        "url": f"https://example.org/clip-{number}",
        **changes,
    }


def write(folder: Path, train: int, val: int, test: int) -> None:
    first = 10_000_000
    for name, count in (("train", train), ("valid", val), ("test", test)):
        content = {str(number): entry(number) for number in range(first, first + count)}
        (folder / f"{name}.json").write_text(json.dumps(content))
        first += count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, 3, 2, 2)
    return tmp_path


def read(folder: Path, **options: object) -> Manifest:
    return rtime.read("small", str(folder), dict(options))


def test_validation_and_test_have_the_published_counts(tmp_path: Path) -> None:
    write(tmp_path, 20, 500, 1000)
    manifest = read(tmp_path)
    manifest.check()
    assert {s: len(manifest.split(s)) for s in ("train", "val", "test")} == {"train": 40, "val": 1000, "test": 2000}
    assert {len(video.captions) for video in manifest.videos if video.split != "train"} == {1}
    assert {len(video.captions) for video in manifest.split("train")} == {10}
    assert rtime.PUBLISHED.concerns(manifest)
    assert rtime.PUBLISHED.differences(manifest) == []
    assert len(manifest.filmed()) == 1520


def test_a_reversal_is_a_row_that_shows_its_video_backwards(folder: Path) -> None:
    (folder / "videos").mkdir()
    (folder / "videos" / "10000005.webm").write_bytes(b"-")
    forward, backward = read(folder).split("test")[:2]
    assert (forward.video_id, forward.captions, forward.reverse_of) == ("10000005", ("opens 10000005",), None)
    assert (backward.video_id, backward.captions) == ("10000005_reverse", ("closes 10000005",))
    assert backward.reverse_of == "10000005"
    assert forward.uri == backward.uri == str(folder / "videos" / "10000005.webm")


def test_training_may_leave_out_rewrites_and_reversals(folder: Path) -> None:
    plain = read(folder, rewrites=False, reversals=False)
    assert [len(video.captions) for video in plain.split("train")] == [1, 1, 1]
    assert len(plain.split("test")) == 4
    (folder / "train.json").write_text(json.dumps({"1": entry(1, reverse=False, reverse_captions=[])}))
    assert [video.video_id for video in read(folder).split("train")] == ["1"]


def test_subsets_may_name_reversals(folder: Path) -> None:
    (folder / "subsets.json").write_text(json.dumps({"doors": ["10000005_reverse"]}))
    assert [video.subsets for video in read(folder).split("test")[:2]] == [(), ("doors",)]


def test_the_check_counts_a_file_for_both_directions(folder: Path, tmp_path: Path) -> None:
    (folder / "videos").mkdir()
    for number in range(10_000_000, 10_000_006):
        (folder / "videos" / f"{number}.mp4").write_bytes(b"-")
    found = check("small", TaskSettings("rtime", str(folder), 12, 32), tmp_path)
    assert found.fault is None
    assert [(s.videos, len(s.missing)) for s in found.splits.values()] == [(6, 0), (4, 0), (4, 2)]
    assert "test has 4 videos, published are 2,000" in found.differences


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"test\.json: unexpected JSON; found 'list'; expected dict"),
        ({"1": []}, r"test\.json 1: not in the form of RTime; found \[\]"),
        ({"1": entry(1, reverse="yes")}, r"test\.json 1 reverse: neither true nor false; found 'yes'"),
        ({"1": entry(1, forward_captions=[])}, r"1 forward_captions: no list of captions; found \[\]"),
        ({"1": entry(1, reverse_captions=[" "])}, r"1 reverse_captions: empty caption; found ' '"),
        ({"a/b": entry(1)}, r"test\.json: video id is not usable as a file name; found 'a/b'"),
    ],
)
def test_damaged_files_are_named(folder: Path, content: object, message: str) -> None:
    (folder / "test.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read(folder)


def test_damaged_rewrites_and_options_are_named(folder: Path) -> None:
    (folder / "train.json").write_text(json.dumps({"1": entry(1, forward_rewrites="x")}))
    with pytest.raises(DataError, match=r"train\.json 1 forward_rewrites: no list of captions; found 'x'"):
        read(folder)
    assert read(folder, rewrites=False).split("train")
    with pytest.raises(ConfigError, match=r"tasks\.small\.options\.rewrites: neither yes nor no; found 1"):
        read(folder, rewrites=1)
