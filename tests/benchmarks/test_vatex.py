"""VATEX in both published forms, at full size and in both languages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from components.benchmarks import vatex
from components.benchmarks.reader import read_annotations
from components.errors import ConfigError, DataError
from components.manifest import Manifest
from components.task import TaskSettings

TRAIN, HALF = 25_991, 1500


def name(number: int) -> str:
    return f"yt-_{number:07d}_000010_000020"


def entries(numbers: range, captions: int = 10) -> list[dict[str, object]]:
    return [
        {
            "videoID": name(number),
            "enCap": [f"en {number} {k}" for k in range(captions)],
            "chCap": [f"中{number} {k}" for k in range(captions)],
        }
        for number in numbers
    ]


def write(folder: Path, train: int, half: int, captions: int = 10) -> None:
    """The published files and the list of test videos."""
    published = {vatex.TRAINING: range(train), vatex.VALIDATION: range(train, train + 2 * half)}
    for file, numbers in published.items():
        (folder / file).write_text(json.dumps(entries(numbers, captions)))
    (folder / "test_list.txt").write_text("".join(f"{name(n)}\n" for n in range(train + half, train + 2 * half)))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vatex")
    write(folder, TRAIN, HALF)
    return folder


@pytest.fixture(scope="module")
def english(published: Path) -> Manifest:
    return read(published)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, 4, 2, captions=2)
    return tmp_path


def read(folder: Path, **options: object) -> Manifest:
    return vatex.read("small", str(folder), dict(options))


def counts(manifest: Manifest) -> dict[str, tuple[int, int]]:
    splits = {split: manifest.split(split) for split in ("train", "val", "test")}
    return {split: (len(videos), sum(len(v.captions) for v in videos)) for split, videos in splits.items()}


def test_the_published_files_have_the_published_counts(english: Manifest) -> None:
    manifest = english
    manifest.check()
    assert counts(manifest) == {"train": (TRAIN, 259_910), "val": (HALF, 15_000), "test": (HALF, 15_000)}
    known = vatex.READER.published({})
    assert known is not None
    assert known.concerns(manifest)
    assert known.differences(manifest) == []
    assert {video.languages for video in manifest.videos} == {()}
    assert manifest.protocol.caption_rule == "every caption of a test video is a query"


@pytest.mark.slow
def test_both_languages_are_read_and_each_caption_says_which(published: Path) -> None:
    manifest = read(published, languages="en, zh")
    manifest.check()
    assert counts(manifest)["test"] == (HALF, 30_000)
    video = manifest.split("test")[0]
    assert video.languages == ("en",) * 10 + ("zh",) * 10
    assert (video.captions[0], video.captions[10]) == (f"en {TRAIN + HALF} 0", f"中{TRAIN + HALF} 0")
    known = vatex.READER.published({"languages": "en, zh"})
    assert known is not None
    assert known.differences(manifest) == []
    assert manifest.protocol.caption_rule.endswith("; languages: en, zh")


@pytest.mark.slow
def test_lists_and_reference_captions_alone_are_enough_for_english(english: Manifest, tmp_path: Path) -> None:
    """The form of CLIP4Clip's family: three lists and a list of texts per id."""
    wanted = english
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}_list.txt").write_text("\n".join(v.video_id for v in wanted.split(split)))
    captions = {video.video_id: list(video.captions) for video in wanted.videos}
    (tmp_path / vatex.REFERENCE).write_text(json.dumps(captions))
    manifest = read(tmp_path)
    assert counts(manifest) == counts(wanted)
    assert [v.captions for v in manifest.videos] == [v.captions for v in wanted.videos]
    assert manifest.protocol.validation == "val_list.txt"
    with pytest.raises(DataError, match=r"vatex_training_v1\.0\.json: no such file"):
        read(tmp_path, languages="zh")


def test_without_validation_videos_training_ones_are_held_out_if_the_task_says_so(folder: Path) -> None:
    numbers = counts(read(folder, val_share=0.25))
    assert numbers == {"train": (3, 6), "val": (1, 2), "test": (2, 4)}
    (folder / "train_list.txt").write_text("".join(f"{name(n)}\n" for n in range(4)))
    captions = {str(e["videoID"]): e["enCap"] for e in entries(range(8), 2)}
    (folder / vatex.REFERENCE).write_text(json.dumps(captions))
    (folder / vatex.VALIDATION).unlink()
    with pytest.raises(DataError, match=r"no validation videos; .*or set tasks\.small\.options\.val_share"):
        read(folder)
    assert counts(read(folder, val_share=0.25)) == numbers
    known = vatex.READER.published({"val_share": 0.25})
    assert known is not None
    assert "val" not in known.videos


def test_a_video_is_a_file_or_ten_seconds_of_one(folder: Path) -> None:
    (folder / "videos").mkdir()
    cut, whole = folder / "videos" / f"{name(0)}.mp4", folder / "videos" / "yt-_0000001.webm"
    cut.write_bytes(b"-")
    whole.write_bytes(b"-")
    videos = read(folder).by_id()
    places = [(v.uri, v.start_seconds, v.end_seconds) for v in (videos[name(n)] for n in range(3))]
    missing = str(folder / "videos" / f"{name(2)}.mp4")
    assert places == [(str(cut), None, None), (str(whole), 10.0, 20.0), (missing, None, None)]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (vatex.TRAINING, "{}", r"vatex_training_v1\.0\.json: unexpected JSON; found 'dict'; expected list"),
        (vatex.TRAINING, '[{"videoID": 3}]', r"entry 1: not in the form of VATEX; found \{'videoID': 3\}"),
        (vatex.TRAINING, '[{"videoID": "a"}, {"videoID": "a"}]', r"entry 2: video id occurs twice; found 'a'"),
        (vatex.TRAINING, '[{"videoID": "a", "enCap": "x"}]', r"a enCap: no list of captions; found 'x'; expected a li"),
        (vatex.TRAINING, '[{"videoID": "a", "enCap": [" "]}]', r"a enCap: empty caption; found ' '; expected a text"),
        ("test_list.txt", "other\n", r"videos without a caption in the language 'en'; found 'other'"),
        ("test_list.txt", "a/b\n", r"test_list\.txt:1: .*not usable as a file name"),
        (vatex.REFERENCE, '{"a": []}', r"ref_captions\.json a: no list of captions"),
    ],
)
def test_damaged_files_are_named(folder: Path, file: str, content: str, message: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(DataError, match=message):
        read(folder)


@pytest.mark.parametrize("value", ["", "en,en", "de", "en;zh", 3])
def test_languages_that_vatex_does_not_have_are_named(folder: Path, value: object) -> None:
    task = TaskSettings("vatex", str(folder), 12, 32, {"languages": value})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"tasks\.v\.options\.languages: not a list of languages.*some of en, zh"):
        read_annotations("v", task, folder)


def test_every_file_that_is_read_is_listed(folder: Path) -> None:
    files = {names: file.needed for file in vatex.READER.files({"languages": "en, zh"}) for names in [file.names]}
    assert files[(vatex.REFERENCE, vatex.TRAINING)]
    assert files[(vatex.TRAINING,)]
    assert files[(vatex.VALIDATION,)]
    assert not files[("val_list.txt",)]
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="no such file"):
        read(folder)
