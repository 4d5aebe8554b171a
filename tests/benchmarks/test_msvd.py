from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from video_files import SHARED

from components.benchmarks import msvd
from components.errors import ConfigError, DataError
from components.manifest import Manifest

LISTS = {"train": ["a_1_2", "b_3_4"], "val": ["c_5_6"], "test": ["d_7_8"]}
CAPTIONS = {name: [f"first of {name}", f"second of {name}"] for ids in LISTS.values() for name in ids}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, ids in LISTS.items():
        (tmp_path / f"{split}_list.txt").write_text("".join(f"{name}\n" for name in ids))
    (tmp_path / "captions_msvd.json").write_text(json.dumps(CAPTIONS))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "d_7_8.avi").write_bytes(b"-")
    return tmp_path


def read(folder: Path, **options: object) -> Manifest:
    return msvd.read("small", str(folder), dict(options))


def test_every_caption_of_every_split_counts(folder: Path) -> None:
    manifest = read(folder)
    manifest.check()
    assert {split: [video.video_id for video in manifest.split(split)] for split in LISTS} == LISTS
    assert {video.video_id: list(video.captions) for video in manifest.videos} == CAPTIONS
    assert manifest.by_id()["d_7_8"].uri == str(folder / "videos" / "d_7_8.avi")
    assert manifest.by_id()["a_1_2"].uri == str(folder / "videos" / "a_1_2.avi")


def test_byte_order_marks_and_crlf(folder: Path) -> None:
    for path in folder.glob("*.*"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert [video.video_id for video in read(folder).split("train")] == LISTS["train"]


def test_a_pickle_of_words_gives_the_same(folder: Path) -> None:
    wanted = read(folder)
    (folder / "captions_msvd.json").unlink()
    words = {name: [text.split() for text in texts] for name, texts in CAPTIONS.items()}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (folder / "raw-captions.pkl").write_bytes(pickle.dumps(words, protocol))
        assert read(folder) == wanted


class Call:
    """An object that pickles as a call of ``os.mkdir``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_runs_no_code(folder: Path, protocol: int) -> None:
    (folder / "captions_msvd.json").unlink()
    trace = folder / "made"
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps({"a_1_2": Call(trace)}, protocol))
    with pytest.raises(DataError, match=r"raw-captions\.pkl: not a plain pickle; found .*names posix\.mkdir"):
        read(folder)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a plain pickle; found 'EOFError"),
        (b"text", "not a plain pickle"),
        (pickle.dumps([1]), "unexpected captions; found 'list'"),
        (pickle.dumps({"a_1_2": "text"}), "raw-captions.pkl a_1_2: unexpected captions"),
        (pickle.dumps({"a_1_2": [[1]]}), "raw-captions.pkl a_1_2: unexpected caption"),
        (pickle.dumps({"a_1_2": [["a"], []]}), "raw-captions.pkl a_1_2: empty caption"),
        (pickle.dumps({"a_1_2": {1, 2}}), "unexpected captions"),
        (pickle.dumps({"a_1_2": Path("x")}), r"names pathlib\.PosixPath"),
    ],
)
def test_other_pickles_are_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "captions_msvd.json").unlink()
    (folder / "raw-captions.pkl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_list.txt", b"a_1_2\n\na_1_2\n", r"train_list\.txt:3: video id occurs twice; found 'a_1_2'.*line 1"),
        ("train_list.txt", b"a_1_2\n../a\n", r"train_list\.txt:2: video id is not usable as a file name"),
        ("train_list.txt", b"\n", "no rows"),
        ("val_list.txt", b"c_5_6\ncaf\xe9\n", r"val_list\.txt:2: not UTF-8 at byte 9; found b'\\xe9'"),
        ("test_list.txt", b"e_9_9\n", r"captions_msvd\.json: videos without a caption; found 'e_9_9'"),
        ("captions_msvd.json", b'{"a_1_2": [""]}', r"captions_msvd\.json a_1_2: empty caption"),
        ("captions_msvd.json", b'{"a_1_2": []}', "videos without a caption; found 'a_1_2, b_3_4, c_5_6, d_7_8'"),
    ],
)
def test_damaged_files_are_named(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(folder)


def test_missing_files_and_unknown_options_are_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown option.*'split'; expected no options"):
        read(folder, split="x")
    (folder / "val_list.txt").unlink()
    with pytest.raises(DataError, match=r"val_list\.txt: no such file"):
        read(folder)
    (folder / "captions_msvd.json").unlink()
    with pytest.raises(DataError, match=r"no captions; expected captions_msvd\.json or raw-captions\.pkl"):
        read(folder)


def test_a_video_of_two_splits_is_refused(folder: Path) -> None:
    (folder / "val_list.txt").write_text("a_1_2\n")
    with pytest.raises(DataError, match="two splits; found 'a_1_2'"):
        read(folder).check()


@pytest.mark.skipif(not (SHARED / "annotations" / "msvd").is_dir(), reason="there are no published MSVD files here")
def test_published_files(tmp_path: Path) -> None:
    for path in (SHARED / "annotations" / "msvd").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = read(tmp_path)
    manifest.check()
    splits = [manifest.split(split) for split in ("train", "val", "test")]
    assert [len(videos) for videos in splits] == [1200, 100, 670]
    assert [sum(len(video.captions) for video in videos) for videos in splits] == [48774, 4290, 27763]
    assert msvd.PUBLISHED.concerns(manifest)
    assert msvd.PUBLISHED.differences(manifest) == []
