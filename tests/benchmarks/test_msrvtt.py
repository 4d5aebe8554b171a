from __future__ import annotations

import json
from pathlib import Path

import pytest
from video_files import SHARED, write_msrvtt

from components.benchmarks import files, msrvtt
from components.benchmarks.reader import read_manifest
from components.errors import ConfigError, DataError
from components.manifest import Manifest
from components.task import TaskSettings

TRAIN = [f"video{number}" for number in range(40)]
VAL = ["video40", "video41"]
TEST = ["video50", "video51", "video52"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_msrvtt(tmp_path, TRAIN, VAL, TEST)
    put_videos(tmp_path, [*TRAIN, *VAL, *TEST])
    return tmp_path


def put_videos(folder: Path, names: list[str], ending: str = ".mp4") -> None:
    (folder / "videos").mkdir(exist_ok=True)
    for name in names:
        (folder / "videos" / f"{name}{ending}").write_bytes(b"-")


def read(folder: Path, **options: object) -> Manifest:
    return msrvtt.read("small", str(folder), dict(options))


def test_splits_and_captions(folder: Path) -> None:
    manifest = read(folder)
    manifest.check()
    assert [video.video_id for video in manifest.split("train")] == TRAIN
    assert manifest.by_id()["video7"].captions == ("caption 0 of video7", "caption 1 of video7")
    assert manifest.by_id()["video40"].captions == ("caption 0 of video40",)
    assert [video.captions for video in manifest.split("test")] == [(f"a test caption of {name}",) for name in TEST]
    assert manifest.protocol.validation == "MSRVTT_val.csv"


def test_without_a_validation_file_a_fixed_share_of_training_is_held_out(folder: Path) -> None:
    (folder / "MSRVTT_val.csv").unlink()
    first, again = read(folder, val_share=0.1), read(folder, val_share=0.1)
    assert first == again
    held = {video.video_id for video in first.split("val")}
    assert len(held) == 4
    assert [video.video_id for video in first.split("train")] == [name for name in TRAIN if name not in held]
    assert all(len(video.captions) == 1 for video in first.split("val"))
    assert files.held_out(reversed(TRAIN), 0.1) == held


def test_the_7k_split_is_an_option(folder: Path) -> None:
    (folder / "MSRVTT_train.7k.csv").write_text("video_id\nvideo3\n")
    manifest = read(folder, split="7k")
    assert [video.video_id for video in manifest.split("train")] == ["video3"]
    assert manifest.protocol.variant == "7k / 1k-A"


def test_byte_order_marks_crlf_and_quoted_commas_are_read(folder: Path) -> None:
    for path in folder.glob("MSRVTT_*"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    test = folder / "MSRVTT_JSFUSION_test.csv"
    test.write_bytes(test.read_bytes() + b'ret9,msr9,video60,"first, ""then""\r\nmore"\r\n')
    manifest = read(folder)
    assert [video.video_id for video in manifest.split("train")] == TRAIN
    assert manifest.by_id()["video60"].captions == ('first, "then"\r\nmore',)


def test_webm_files_are_found_and_a_missing_one_gets_its_expected_path(folder: Path) -> None:
    (folder / "videos" / "video1.mp4").rename(folder / "videos" / "video1.webm")
    (folder / "videos" / "video2.mp4").unlink()
    videos = read(folder).by_id()
    assert videos["video1"].uri == str(folder / "videos" / "video1.webm")
    assert videos["video2"].uri == str(folder / "videos" / "video2.mp4")


def test_subsets(folder: Path) -> None:
    (folder / "subsets.json").write_text(json.dumps({"temporal": ["video50", "video41"], "hard": ["video50"]}))
    videos = read(folder).by_id()
    assert videos["video50"].subsets == ("temporal", "hard")
    assert videos["video51"].subsets == ()
    (folder / "subsets.json").write_text(json.dumps({"temporal": ["nowhere"]}))
    with pytest.raises(DataError, match=r"subsets\.json: subset 'temporal' names videos that no split has.*'nowhere'"):
        read(folder)


def test_training_videos_without_captions_are_named(folder: Path) -> None:
    data = json.loads((folder / "MSRVTT_data.json").read_text())
    data["sentences"] = [row for row in data["sentences"] if row["video_id"] not in ("video3", "video41")]
    (folder / "MSRVTT_data.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"MSRVTT_data\.json: .*without a caption; found 'video3, video41'"):
        read(folder)


def test_captions_of_a_video_without_an_entry_are_named(folder: Path) -> None:
    data = json.loads((folder / "MSRVTT_data.json").read_text())
    data["sentences"].append({"video_id": "video99", "caption": "who is this"})
    (folder / "MSRVTT_data.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"MSRVTT_data\.json: captions of videos without an entry; found 'video99'"):
        read(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("MSRVTT_train.9k.csv", "id\nvideo1\n", "column is missing.*expected video_id"),
        ("MSRVTT_train.9k.csv", "video_id\n", "no rows"),
        ("MSRVTT_train.9k.csv", "", "column is missing"),
        ("MSRVTT_JSFUSION_test.csv", "key,vid_key,video_id,sentence\na,b,video50\n", r":2: field is empty"),
        ("MSRVTT_JSFUSION_test.csv", 'key,vid_key,video_id,sentence\na,b,video50,"open', "not CSV"),
        (
            "MSRVTT_JSFUSION_test.csv",
            "video_id,sentence\nv,a\nv,b\n",
            r"csv:3: video id occurs twice; found 'v'.*line 2",
        ),
        ("MSRVTT_JSFUSION_test.csv", "video_id,sentence\nv,a\n../v,b\n", r"csv:3: .*not usable as a file name"),
        ("MSRVTT_train.9k.csv", "video_id\nvideo1\nvideo2\nvideo1\n", r"csv:4: video id occurs twice"),
        ("MSRVTT_train.9k.csv", "video_id\na/../../b\n", r"csv:2: .*not usable as a file name"),
        (
            "MSRVTT_data.json",
            '{"videos": [{"video_id": "v"}], "sentences": [{"video_id": "v", "caption": " "}]}',
            "empty caption; found 'v'",
        ),
        ("MSRVTT_data.json", "{", "not JSON"),
        ("MSRVTT_data.json", "[]", "unexpected JSON; found 'list'; expected dict"),
        ("MSRVTT_data.json", '{"videos": []}', "not in the form of MSR-VTT"),
        ("subsets.json", '{"temporal": "video50"}', "not a list of video ids"),
    ],
)
def test_damaged_files_are_named(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read(folder)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv", "MSRVTT_data.json"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: no such file"):
        read(folder)


def test_a_collection_without_videos_is_one_error(folder: Path) -> None:
    task = TaskSettings("msrvtt", str(folder), 4, 16)
    for path in (folder / "videos").iterdir():
        path.rename(path.with_name("other-" + path.name))
    with pytest.raises(DataError, match=r"no listed video has a file; found 'videos/other-video0\.mp4.*/video0\.mp4"):
        read_manifest("small", task, folder)
    for path in (folder / "videos").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no listed video has a file; found 'no file'"):
        read_manifest("small", task, folder)
    (folder / "videos").rmdir()
    with pytest.raises(DataError, match="no listed video has a file; found 'no file'"):
        read_manifest("small", task, folder)


def set_splits(folder: Path, *splits: str) -> None:
    """Writes ``splits`` in turn to the videos in the file of the data set."""
    data = json.loads((folder / "MSRVTT_data.json").read_text())
    for number, entry in enumerate(data["videos"]):
        entry["split"] = splits[number % len(splits)]
    (folder / "MSRVTT_data.json").write_text(json.dumps(data))


def test_the_full_split_is_the_official_one(folder: Path) -> None:
    set_splits(folder, "train", "validate", "test")
    for path in folder.glob("*.csv"):
        path.unlink()
    manifest = read(folder, split="full")
    manifest.check()
    assert [len(manifest.split(split)) for split in ("train", "val", "test")] == [15, 15, 15]
    assert manifest.by_id()["video2"].captions == ("caption 0 of video2", "caption 1 of video2")
    assert manifest.by_id()["video2"].split == "test"
    assert manifest.protocol.variant == "full"
    set_splits(folder, "train", "dev")
    with pytest.raises(DataError, match=r"MSRVTT_data\.json: entry without a known split; found 'video1, video3"):
        read(folder, split="full")


def test_counts_are_compared_where_the_ids_are_the_benchmarks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, tests, warnings in (("other", ["video50"], 0), ("copy", ["video7010"], 3)):
        folder = tmp_path / name
        write_msrvtt(folder, TRAIN, VAL, tests)
        put_videos(folder, TRAIN)
        caplog.clear()
        read_manifest("small", TaskSettings("msrvtt", str(folder), 4, 16), tmp_path)
        assert sum("published" in record.getMessage() for record in caplog.records) == warnings
    assert "train has 42 videos, published are 9,000" in caplog.text
    assert "test has 1 captions, published are 1,000" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spilt": "7k"}, r"tasks\.small\.options: unknown option.*'spilt'.*split, val_share"),
        ({"split": "8k"}, "unknown split of MSR-VTT.*7k or full"),
        ({"val_share": 2}, r"val_share: not a fraction; found 2"),
        ({"val_share": True}, "not a fraction"),
    ],
)
def test_wrong_options_are_named(folder: Path, options: dict[str, object], message: str) -> None:
    (folder / "MSRVTT_val.csv").unlink()
    with pytest.raises(ConfigError, match=message):
        read(folder, **options)


@pytest.mark.skipif(not (SHARED / "annotations" / "msrvtt").is_dir(), reason="there are no MSR-VTT lists here")
@pytest.mark.parametrize(("variant", "count"), [("9k", 9000), ("7k", 7010)])
def test_published_lists(tmp_path: Path, variant: str, count: int) -> None:
    for path in (SHARED / "annotations" / "msrvtt").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    # The lists have no training captions.
    train = files.read_csv(str(tmp_path / f"MSRVTT_train.{variant}.csv"), ("video_id",))
    write = [{"video_id": row["video_id"], "caption": "a caption"} for _, row in train]
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps({"videos": write, "sentences": write}))
    put_videos(tmp_path, ["video9770"])
    manifest = read(tmp_path, split=variant)
    manifest.check()
    assert len(manifest.split("train")) + len(manifest.split("val")) == count
    assert len(manifest.split("val")) == round(0.05 * count)
    assert msrvtt.PUBLISHED[variant].concerns(manifest)
    assert msrvtt.PUBLISHED[variant].differences(manifest) == []
    assert len(manifest.split("test")) == 1000
    assert manifest.by_id()["video9770"].captions == ("a person is connecting something to system",)
