"""The five video retrieval sets of MMEB-V2: counts, one caption per video, eight frames."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.benchmarks import mmeb, youcook2
from components.benchmarks.reader import read_annotations
from components.errors import ConfigError, DataError
from components.manifest import Manifest
from components.task import TaskSettings


def read(folder: Path, name: str, **options: object) -> Manifest:
    manifest = mmeb.read("m", str(folder), {"set": name, **options})
    manifest.check()
    return manifest


def is_published(manifest: Manifest, name: str) -> bool:
    published = mmeb.READER.published({"set": name})
    assert published is not None
    assert published.concerns(manifest)
    assert manifest.protocol.caption_rule == "one caption per test video"
    return published.differences(manifest) == []


def msvd_id(split: str, number: int) -> str:
    return f"{split:_<11}_{number}_{number + 9}"


def write_msvd(folder: Path, test: int = 670) -> None:
    """Six captions per video, as in the data set's own protocol."""
    ids = {"train": 6, "val": 2, "test": test}
    names = {split: [msvd_id(split, n) for n in range(count)] for split, count in ids.items()}
    for split, some in names.items():
        (folder / f"{split}_list.txt").write_text("\n".join(some))
    captions = {name: [f"{name} caption {k}" for k in range(6)] for some in names.values() for name in some}
    (folder / "captions_msvd.json").write_text(json.dumps(captions))


def write_youcook2(folder: Path, tested: int) -> list[dict[str, object]]:
    """The annotations of 10 training videos and of as many others as ``tested`` segments need."""

    def segments(video: str) -> list[dict[str, object]]:
        return [{"id": k, "segment": [10 * k, 10 * k + 7], "sentence": f"{video} step {k}"} for k in range(8)]

    names = {"training": [f"{n:0>11}" for n in range(10)], "validation": [f"v{n:0>10}" for n in range(-(-tested // 8))]}
    database = {
        name: {"subset": subset, "annotations": segments(name)} for subset, some in names.items() for name in some
    }
    (folder / youcook2.FILE).write_text(json.dumps({"database": database}))
    rows = [
        {"id": f"{name}_{k}", "video_path": f"val/{name}.mp4", "segment": row["segment"], "sentence": row["sentence"]}
        for name in names["validation"]
        for k, row in enumerate(segments(name))
    ]
    return rows[:tested]


def test_msvd_has_670_videos_and_as_many_queries(tmp_path: Path) -> None:
    write_msvd(tmp_path)
    manifest = read(tmp_path, "msvd")
    test = manifest.split("test")
    assert (len(test), {len(video.captions) for video in test}) == (670, {1})
    assert test[0].captions == (f"{msvd_id('test', 0)} caption 0",)
    assert {len(video.captions) for video in manifest.split("train")} == {6}
    assert is_published(manifest, "msvd")
    assert manifest.protocol.variant == "MMEB-V2 video retrieval, msvd: 8 frames, R@1 is hit@1"


def test_a_table_of_rows_decides_the_test(tmp_path: Path) -> None:
    write_msvd(tmp_path, test=3)
    rows = [{"video_id": msvd_id("test", n), "video": "x.avi", "caption": ["first", "second"]} for n in (2, 0)]
    (tmp_path / "mmeb_msvd.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    test = read(tmp_path, "msvd").split("test")
    assert [(video.video_id, video.captions) for video in test] == [(msvd_id("test", n), ("first",)) for n in (2, 0)]


@pytest.mark.parametrize("kind", ["parquet", "json", "jsonl"])
def test_youcook2_has_3179_segments(tmp_path: Path, kind: str) -> None:
    rows = write_youcook2(tmp_path, 3179)
    place = tmp_path / f"mmeb_youcook2.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), place)
    else:
        place.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "v0000000000.mp4").write_bytes(b"-")
    manifest = read(tmp_path, "youcook2")
    assert is_published(manifest, "youcook2")
    assert len(manifest.split("test")) == 3179
    second = manifest.split("test")[1]
    assert (second.uri, second.start_seconds, second.end_seconds) == (
        str(tmp_path / "videos" / "v0000000000.mp4"), 10.0, 17.0,
    )  # fmt: skip
    assert second.captions == ("v0000000000 step 1",)
    # Whole videos are held out, so that no segment of a validation video is trained on.
    held = {video.video_id[:11] for video in manifest.split("val")}
    assert held.isdisjoint(video.video_id[:11] for video in manifest.split("train"))
    assert len(manifest.split("val")) == 8


def test_vatex_has_4478_videos_that_are_not_those_of_the_data_sets_test(tmp_path: Path) -> None:
    def entry(number: int) -> dict[str, object]:
        return {"videoID": f"yt-{number:08d}_000001_000011", "enCap": [f"{number} a", f"{number} b"], "chCap": ["c"]}

    (tmp_path / "vatex_training_v1.0.json").write_text(json.dumps([entry(n) for n in range(5)]))
    (tmp_path / "vatex_validation_v1.0.json").write_text(json.dumps([entry(n) for n in range(5, 9)]))
    (tmp_path / "test_list.txt").write_text("\n".join(str(entry(n)["videoID"]) for n in (7, 8)))
    with pytest.raises(DataError, match=r"no test rows of MMEB-V2; expected mmeb_vatex\.jsonl or .*; its test videos"):
        read(tmp_path, "vatex")
    (tmp_path / "mmeb_vatex.json").write_text(json.dumps([entry(n) for n in range(100, 4578)]))
    manifest = read(tmp_path, "vatex")
    assert is_published(manifest, "vatex")
    assert manifest.split("test")[0].captions == ("100 a",)
    (tmp_path / "mmeb_vatex.json").write_text(json.dumps([entry(n) for n in (3, 100)]))
    with pytest.raises(DataError, match=r"video is in two splits; found 'yt-00000003_000001_000011'"):
        read(tmp_path, "vatex")


def test_didemo_and_msrvtt_have_the_test_of_the_data_set(tmp_path: Path) -> None:
    for split, count in (("train", 2), ("val", 1), ("test", 1004)):
        names = [f"{n}@N0{'train val test'.index(split) % 9}_{n}_0123456789.mov" for n in range(count)]
        (tmp_path / f"{split}_list.txt").write_text("\n".join(names))
        texts = ("one.", "two.")
        rows: list[dict[str, object]] = [{"video": n, "description": t, "times": []} for n in names for t in texts]
        (tmp_path / f"{split}_data.json").write_text(json.dumps(rows))
    manifest = read(tmp_path, "didemo")
    assert is_published(manifest, "didemo")
    assert {video.captions for video in manifest.split("test")} == {("one. two.",)}
    ids = [f"video{n}" for n in range(4)] + [f"video{n}" for n in range(8000, 9000)]
    sentences = [{"video_id": name, "caption": "c"} for name in ids]
    content = {"videos": [{"video_id": name} for name in ids], "sentences": sentences}
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps(content))
    (tmp_path / "MSRVTT_train.9k.csv").write_text("video_id\n" + "\n".join(ids[:4]))
    lines = [f"ret{n},msr{n},{name},says {n}" for n, name in enumerate(ids[4:])]
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\n" + "\n".join(lines))
    manifest = read(tmp_path, "msrvtt", val_share=0.25)
    assert is_published(manifest, "msrvtt")
    assert manifest.split("test")[0].captions == ("says 0",)


def test_eight_frames_are_part_of_the_protocol(tmp_path: Path) -> None:
    write_msvd(tmp_path, test=2)
    task = TaskSettings("mmeb", str(tmp_path), 12, 32, {"set": "msvd"})
    message = (
        r"tasks\.m\.frames: the protocol of mmeb prescribes the number of frames; found 12; expected 8; set it to 8"
    )
    with pytest.raises(ConfigError, match=message):
        read_annotations("m", task, tmp_path)
    assert read_annotations("m", TaskSettings("mmeb", str(tmp_path), 8, 32, {"set": "msvd"}), tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([3], r"mmeb_msvd\.json entry 1: not an object; found 3; expected the columns"),
        ([{"video_id": "a"}], r"entry 1: column is missing; found \['video_id'\]; expected caption"),
        ([{"video_id": "a", "caption": []}], r"entry 1 caption: empty caption; found \[\]"),
        ([{"video_id": 1.5, "caption": "c"}], r"entry 1 video_id: not an id; found 1\.5"),
    ],
)
def test_damaged_rows_are_named(tmp_path: Path, rows: object, message: str) -> None:
    write_msvd(tmp_path, test=2)
    (tmp_path / "mmeb_msvd.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message):
        read(tmp_path, "msvd")


def test_damaged_files_and_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"options\.set: not a set of MMEB-V2; found 'lsmdc'; expected one of msrvtt, ms"
    ):
        mmeb.read("m", str(tmp_path), {"set": "lsmdc"})
    with pytest.raises(ConfigError, match=r"options\.set: not a set of MMEB-V2; expected one of msrvtt, msvd"):
        mmeb.read("m", str(tmp_path), {})
    write_youcook2(tmp_path, 8)
    (tmp_path / "mmeb_youcook2.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"mmeb_youcook2\.parquet: not Parquet, or damaged"):
        read(tmp_path, "youcook2")


@pytest.mark.parametrize(
    ("database", "message"),
    [
        (None, r"not in the form of YouCook2"),
        ({"a": {"subset": "x", "annotations": []}}, r"youcookii_annotations_trainval\.json a: not in the form"),
        (
            {"a": {"subset": "training", "annotations": [{"id": 0, "segment": [9, 2], "sentence": "s"}]}},
            r"a 0 segment: not a segment; found \[9, 2\]; expected \[start, end\] in seconds",
        ),
        (
            {"a": {"subset": "training", "annotations": [{"id": 0, "segment": [1, 2], "sentence": ""}]}},
            r"a 0 sentence: empty caption",
        ),
    ],
)
def test_damaged_annotations_of_youcook2_are_named(tmp_path: Path, database: object, message: str) -> None:
    (tmp_path / youcook2.FILE).write_text(json.dumps({"database": database}))
    with pytest.raises(DataError, match=message):
        youcook2.read("y", str(tmp_path), {})
