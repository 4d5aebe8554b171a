from __future__ import annotations

import json
from pathlib import Path

import pytest
from video_files import SHARED

from components.benchmarks import activitynet
from components.errors import ConfigError, DataError
from components.manifest import Manifest
from components.video import Moment

TRAIN, VAL, TEST = ("v_a-1", "v_v_2", "v__3"), ("v_b1",), ("v_c1", "v_c2")


def entry(*sentences: str) -> dict[str, object]:
    spans = [[2.0 * number, 2.0 * number + 2] for number in range(len(sentences))]
    return {"duration": 2.0 * len(sentences), "timestamps": spans, "sentences": list(sentences)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, keys in (("train", TRAIN), ("val", VAL), ("val_1", TEST)):
        entries = {key: entry(f"First {key}.", f"  Then\n{key}. ") for key in keys}
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    (tmp_path / "train_ids.json").write_text(json.dumps([*TRAIN, "v_nocaption"]))
    (tmp_path / "val_ids.json").write_text(json.dumps(TEST))
    put_videos(tmp_path, [key.removeprefix("v_") for key in (*TRAIN, *VAL, *TEST)])
    return tmp_path


def put_videos(folder: Path, names: list[str]) -> None:
    (folder / "videos").mkdir(exist_ok=True)
    for name in names:
        (folder / "videos" / f"{name}.mp4").write_bytes(b"-")


def read(folder: Path, **options: object) -> Manifest:
    return activitynet.read("small", str(folder), dict(options))


def test_sentences_become_one_paragraph(folder: Path) -> None:
    manifest = read(folder)
    manifest.check()
    assert [video.video_id for video in manifest.split("train")] == ["a-1", "v_2", "_3"]
    assert [video.video_id for video in manifest.split("val")] == ["b1"]
    assert [video.video_id for video in manifest.split("test")] == ["c1", "c2"]
    assert manifest.by_id()["c1"].captions == ("First v_c1. Then v_c1.",)
    assert manifest.by_id()["c1"].end_seconds is None
    assert manifest.notes == ("1 of 4 ids of train_ids.json have no captions and are left out",)


def test_each_sentence_is_a_moment_of_its_video(folder: Path) -> None:
    assert read(folder).by_id()["c1"].moments == (
        Moment("First v_c1.", ((0.0, 2.0),)),
        Moment("Then v_c1.", ((2.0, 4.0),)),
    )


@pytest.mark.parametrize(
    "stamp", [[3.0, 3.0], [3.0, 1.0], [-1.0, 2.0], [1.0], "1-2", None, [0, float("nan")], [0, True]]
)
def test_a_sentence_without_sound_time_stamps_is_only_a_caption(folder: Path, stamp: object) -> None:
    """A few published time stamps have no length or run backwards."""
    content = {"v_b1": {"timestamps": [stamp, [1, 2.5]], "sentences": ["One.", "Two."]}}
    (folder / "val.json").write_text(json.dumps(content))
    video = read(folder).by_id()["b1"]
    assert video.captions == ("One. Two.",)
    assert video.moments == (Moment("Two.", ((1.0, 2.5),)),)
    assert read(folder).notes[-1] == (
        "1 sentences of val.json have no time stamps that end after they start, so they are captions and no moments: "
        "videos b1"
    )


def test_sentences_and_time_stamps_that_differ_in_number_give_no_moments(folder: Path) -> None:
    (folder / "val.json").write_text(json.dumps({"v_b1": {"timestamps": [[0, 1]], "sentences": ["One.", "Two."]}}))
    assert read(folder).by_id()["b1"].moments == ()
    assert "2 sentences of val.json" in read(folder).notes[-1]
    (folder / "val.json").write_text(json.dumps({"v_b1": {"sentences": ["One.", "Two."]}}))
    assert read(folder).by_id()["b1"].moments == ()
    assert len(read(folder).notes) == 1


def test_without_a_validation_file_training_videos_are_held_out(folder: Path) -> None:
    (folder / "val.json").unlink()
    manifest = read(folder, val_share=0.4)
    assert len(manifest.split("val")) == 1
    assert len(manifest.split("train")) == 2
    manifest.check()


def test_files_with_and_without_prefix_are_found(folder: Path) -> None:
    (folder / "videos" / "c1.mp4").rename(folder / "videos" / "v_c1.mp4")
    videos = read(folder).by_id()
    assert videos["c1"].uri.endswith("/videos/v_c1.mp4")
    assert videos["c2"].uri.endswith("/videos/c2.mp4")


def test_subsets_take_keys_and_ids(folder: Path) -> None:
    (folder / "subsets.json").write_text(json.dumps({"temporal": ["v_c1", "v_2"]}))
    videos = read(folder).by_id()
    assert [name for name, video in videos.items() if video.subsets == ("temporal",)] == ["v_2", "c1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("val_ids.json", ["v_c1"], r"val_1\.json: captions of videos without an entry; found 'v_c2'.*val_ids\.json"),
        ("val_1.json", {"v_c1": entry()}, r"val_1\.json: videos without a sentence; found 'c1'"),
        ("val_1.json", {"v_c1": entry(" ")}, r"val_1\.json: videos without a sentence; found 'c1'"),
        ("val_1.json", {"v_c1": ["a"]}, r"val_1\.json: videos without a sentence; found 'c1'"),
        ("val.json", {"c1": entry("a")}, r"val\.json: video key without v_; found 'c1'"),
        ("val_ids.json", ["v_c1", "v_c2", "v_c1"], r"val_ids\.json:3: video id occurs twice; found 'v_c1'"),
        ("val.json", {"v_/../c": entry("a")}, r"val\.json: video id is not usable as a file name"),
        ("train.json", [], r"train\.json: unexpected JSON; found 'list'; expected dict"),
    ],
)
def test_contradictions_are_named(folder: Path, name: str, content: object, message: str) -> None:
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read(folder)


def test_a_video_of_two_splits_is_refused(folder: Path) -> None:
    (folder / "val.json").write_text(json.dumps({"v_c1": entry("a")}))
    with pytest.raises(DataError, match="two splits; found 'c1'"):
        read(folder).check()


def test_an_unknown_option_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown option.*'split'.*val_share"):
        read(folder, split="7k")


@pytest.mark.skipif(not (SHARED / "annotations" / "activitynet").is_dir(), reason="there are no published files here")
def test_published_files(tmp_path: Path) -> None:
    for path in (SHARED / "annotations" / "activitynet").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    put_videos(tmp_path, ["uqiMw7tQ1Cc"])
    manifest = read(tmp_path)
    manifest.check()
    assert activitynet.PUBLISHED.concerns(manifest)
    assert activitynet.PUBLISHED.differences(manifest) == []
    assert len(manifest.split("test")) == 4917
    assert sum(len(video.moments) for video in manifest.split("test")) == 17_505
    assert "4 sentences of train.json have no time stamps" in manifest.notes[1]
    assert len(manifest.split("train")) + len(manifest.split("val")) == 10009
    assert manifest.by_id()["uqiMw7tQ1Cc"].captions == (
        "A weight lifting tutorial is given. "
        "The coach helps the guy in red with the proper body placement and lifting technique.",
    )
