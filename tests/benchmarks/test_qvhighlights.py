"""QVHighlights in its published form, at full size and with every fault of a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.benchmarks import qvhighlights
from components.benchmarks.check import check
from components.benchmarks.qvhighlights import TEST, TEST_QUERIES, TRAIN, VAL
from components.errors import ConfigError, DataError
from components.manifest import Manifest
from components.task import TaskSettings
from components.video import Moment

# Queries and videos of each file, and how many videos have two queries.
SIZES = {TRAIN: (7218, 7100), VAL: (1550, 1519), TEST: (1542, 1529)}
FIRST = {TRAIN: 0, VAL: 10_000, TEST: 20_000}


def line(number: int, video: int, **changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "qid": number,
        "query": f" A  query {number}.",
        "duration": 150,
        "vid": f"yt_{video // 3:08d}_{60 + 150 * (video % 3)}.0_{210 + 150 * (video % 3)}.0",
        "relevant_clip_ids": [0, 1, 4],
        "saliency_scores": [[4, 1, 1], [4, 2, 2], [3, 3, 3]],
        "relevant_windows": [[0, 4], [8, 10]],
    }
    return {name: value for name, value in (row | changes).items() if value != "gone"}


def write(folder: Path, sizes: dict[str, tuple[int, int]]) -> None:
    """The published files: as many queries and videos as ``sizes`` says."""
    for name, (queries, videos) in sizes.items():
        first = FIRST[name]
        rows = [line(first + number, first + number % videos) for number in range(queries)]
        put(folder / name, rows)
    put(folder / TEST_QUERIES, [line(30_000, 20_000, relevant_windows="gone", saliency_scores="gone")])


def put(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, {TRAIN: (9, 8), VAL: (3, 2), TEST: (2, 2)})
    return tmp_path


def read(folder: Path, **options: object) -> Manifest:
    return qvhighlights.read("small", str(folder), dict(options))


def counts(manifest: Manifest) -> dict[str, tuple[int, int]]:
    splits = {split: manifest.split(split) for split in ("train", "val", "test")}
    return {split: (sum(len(v.moments) for v in videos), len(videos)) for split, videos in splits.items()}


def test_the_published_files_have_the_published_counts(tmp_path: Path) -> None:
    write(tmp_path, SIZES)
    published = read(tmp_path, tested="test")
    published.check()
    assert counts(published) == {"train": (7218, 7100), "val": (1550, 1519), "test": (1542, 1529)}
    assert published.notes == ()
    validated = read(tmp_path)
    validated.check()
    found = counts(validated)
    assert found["test"] == (1550, 1519)
    assert (found["train"][0] + found["val"][0], found["train"][1] + found["val"][1]) == (7218, 7100)
    for manifest, options in ((published, {"tested": "test"}), (validated, {})):
        known = qvhighlights.READER.published(options)
        assert known is not None
        assert known.concerns(manifest)
        assert known.differences(manifest) == []


def test_a_missing_line_differs_from_the_published_counts(tmp_path: Path) -> None:
    write(tmp_path, SIZES | {TEST: (1541, 1529)})
    known = qvhighlights.READER.published({"tested": "test"})
    assert known is not None
    assert known.differences(read(tmp_path, tested="test")) == ["test has 1,541 captions, published are 1,542"]


def test_queries_are_captions_and_moments_of_their_video(folder: Path) -> None:
    video = read(folder).by_id()["yt_00003333_210.0_360.0"]
    assert video.split == "test"
    assert video.captions == ("A query 10000.", "A query 10002.")
    assert video.moments[1] == Moment("A query 10002.", ((0.0, 4.0), (8.0, 10.0)))


def test_the_test_queries_without_windows_are_left_out_and_named(folder: Path) -> None:
    assert read(folder).notes == (
        "the queries of highlight_test_release.jsonl have no windows, so they are left out (options.tested)",
    )
    (folder / TEST_QUERIES).unlink()
    assert read(folder).notes == ()


def test_validation_holds_out_whole_videos_on_youtube(folder: Path) -> None:
    manifest = read(folder, val_share=0.3)
    sources = {split: {video.video_id[:11] for video in manifest.split(split)} for split in ("train", "val")}
    assert not sources["train"] & sources["val"]
    assert len(sources["val"]) == 1


def test_cut_and_whole_files_are_found(folder: Path) -> None:
    put(folder / VAL, [line(1, 10_000, duration=126, relevant_windows=[[0, 126]]), line(2, 10_001)])
    (folder / "videos").mkdir()
    (folder / "videos" / "yt_00003333_210.0_360.0.mp4").write_bytes(b"-")
    (folder / "videos" / "yt_00003333.mkv").write_bytes(b"-")
    cut, whole = read(folder).split("test")[0], read(folder).split("test")[1]
    assert (cut.uri, cut.start_seconds, cut.end_seconds) == (
        str(folder / "videos" / "yt_00003333_210.0_360.0.mp4"),
        None,
        None,
    )
    assert (whole.uri, whole.start_seconds, whole.end_seconds) == (
        str(folder / "videos" / "yt_00003333.mkv"),
        360.0,
        510.0,
    )
    (folder / "videos" / "yt_00003333_210.0_360.0.mp4").unlink()
    assert read(folder).split("test")[0].end_seconds == 210.0 + 126


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"relevant_windows": "gone"},
            r"jsonl:2: not a query with its windows; .*_with_gt\.jsonl has them",
        ),
        ({"relevant_windows": []}, r"jsonl:2 relevant_windows: not windows of this video; found \[\]"),
        ({"relevant_windows": [[0, 4], [4]]}, r"jsonl:2 relevant_windows: not windows .*each in 0 to 150"),
        ({"relevant_windows": [[4, 4]]}, "not windows of this video"),
        ({"relevant_windows": [[140, 152]]}, "not windows of this video"),
        ({"relevant_windows": [[0, True]]}, "not windows of this video"),
        ({"relevant_windows": {"a": 1}}, "not windows of this video"),
        ({"relevant_windows": [["0", "4"]]}, "not windows of this video"),
        ({"duration": 0}, "jsonl:2: not a duration; found 0"),
        ({"duration": "150"}, "jsonl:2: not a duration; found '150'"),
        ({"query": " "}, "jsonl:2 query: empty caption"),
        ({"vid": "../up"}, "jsonl:2: video id is not usable as a file name"),
        ({"vid": 1.5}, "jsonl:2 vid: not an id; found 1.5"),
        ({"qid": 1}, r"jsonl:2: query occurs twice; found '1'; .*jsonl:1"),
        ({"vid": line(0, 10_000)["vid"], "duration": 148}, r"jsonl:2: a video has two durations; found 148.*jsonl:1"),
    ],
)
def test_a_faulty_line_is_named(folder: Path, changes: dict[str, object], message: str) -> None:
    put(folder / VAL, [line(1, 10_000), line(2, 10_001, **changes)])
    with pytest.raises(DataError, match=message):
        read(folder)


@pytest.mark.parametrize("text", ["[1]", "7", '"qid"', "{", '{"qid": 1}'])
def test_a_line_that_is_no_query_is_named(folder: Path, text: str) -> None:
    (folder / TRAIN).write_text(text)
    with pytest.raises(DataError, match=r"highlight_train_release\.jsonl:1: not "):
        read(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tested": "train"}, r"tasks\.small\.options\.tested: not a file of queries to test; found 'train'"),
        ({"tested": "test", "val_share": 0.1}, r"options\.val_share: with tested: test, .*leave val_share out"),
        ({"split": "val"}, r"unknown option.*'split'"),
    ],
)
def test_options_are_checked(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(folder, **options)


def test_the_check_lists_the_files_that_are_read(folder: Path) -> None:
    task = TaskSettings("qvhighlights", str(folder), 75, 77, {"tested": "test"})
    (folder / TEST).unlink()
    found = check("small", task, folder)
    assert found.fault is not None
    assert "highlight_test_with_gt.jsonl: MISSING" in found.text()
    assert TEST_QUERIES not in found.text()
