from __future__ import annotations

from pathlib import Path

import pytest

from components.benchmarks import lsmdc
from components.errors import ConfigError, DataError
from components.manifest import Manifest

CLIPS = {
    "train": ["0001_American_Beauty_00.00.51.926-00.00.54.129", "0001_American_Beauty_00.01.02.001-00.01.03.500"],
    "val": ["1020_Crazy_Stupid_Love_00.00.40.000-00.00.43.000"],
    "test": ["3086_UGLY_TRUTH_00.23.23.000-00.23.28.886"],
}


def line(clip: str, sentence: str = 'SOMEONE says "hm", and goes.') -> str:
    times = clip.rpartition("_")[2].split("-")
    return "\t".join([clip, *times, *times, sentence]) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, name in lsmdc.FILES.items():
        (tmp_path / name).write_text("".join(line(clip) for clip in CLIPS[split]))
    return tmp_path


def read(folder: Path, **options: object) -> Manifest:
    return lsmdc.read("small", str(folder), dict(options))


def put(folder: Path, *below: str) -> str:
    path = folder.joinpath("videos", *below)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"-")
    return str(path)


def test_splits_and_sentences(folder: Path) -> None:
    manifest = read(folder)
    manifest.check()
    assert {split: [video.video_id for video in manifest.split(split)] for split in CLIPS} == CLIPS
    assert {video.captions for video in manifest.videos} == {('SOMEONE says "hm", and goes.',)}
    assert manifest.videos[0].start_seconds is None
    assert lsmdc.PUBLISHED.differences(manifest)[0] == "train has 2 videos, published are 109,673"


def test_clips_are_in_the_folder_or_in_that_of_their_movie(folder: Path) -> None:
    flat, below = CLIPS["train"]
    wanted = {flat: put(folder, f"{flat}.avi"), below: put(folder, "0001_American_Beauty", f"{below}.mp4")}
    wanted[CLIPS["test"][0]] = put(folder, "3086_UGLY_TRUTH", f"{CLIPS['test'][0]}.avi")
    wanted[CLIPS["val"][0]] = str(folder / "videos" / f"{CLIPS['val'][0]}.avi")
    assert {video.video_id: video.uri for video in read(folder).videos} == wanted


def test_byte_order_marks_and_crlf(folder: Path) -> None:
    wanted = read(folder)
    for name in lsmdc.FILES.values():
        path = folder / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(folder) == wanted


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (line(CLIPS["test"][0]) * 2, r"publictect\.csv:2: video id occurs twice; found '3086_UGLY"),
        (line(CLIPS["test"][0], " "), r"publictect\.csv:1: not a line in the form of LSMDC"),
        (line(CLIPS["test"][0], "one\ttwo"), r"publictect\.csv:1: not a line in the form of LSMDC"),
        ("clip,start,end,start,end,sentence\n", r"publictect\.csv:1: .*found 'clip,start.*six tab-separated columns"),
        (line("../../x_00.23.23.000-00.23.28.886"), r"publictect\.csv:1: .*not usable as a file name"),
        ("", "no rows"),
    ],
)
def test_damaged_files_are_named(folder: Path, content: str, message: str) -> None:
    (folder / lsmdc.FILES["test"]).write_text(content)
    with pytest.raises(DataError, match=message):
        read(folder)


def test_missing_files_overlaps_and_options_are_named(folder: Path) -> None:
    (folder / lsmdc.FILES["val"]).write_text(line(CLIPS["train"][0]))
    with pytest.raises(DataError, match="two splits; found '0001_American"):
        read(folder).check()
    (folder / lsmdc.FILES["val"]).unlink()
    with pytest.raises(DataError, match=r"LSMDC16_annos_val\.csv: no such file"):
        read(folder)
    with pytest.raises(ConfigError, match="unknown option"):
        read(folder, val_share=0.1)
