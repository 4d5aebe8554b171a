"""A folder of videos: whatever is in it is read, or left out by name, and the numbers add up."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from components.benchmarks import table
from components.benchmarks.check import Check, check
from components.benchmarks.files import VIDEO_ENDINGS, video_files
from components.benchmarks.inventory import FOLDER, HIDDEN, NO_VIDEO, NOT_TEXT, OUTSIDE, UNLISTED, take_stock
from components.benchmarks.listing import names, walk
from components.benchmarks.reader import read_manifest
from components.errors import DataError
from components.manifest import Manifest
from components.task import TaskSettings

LATIN, LATIN_FOLDER = os.fsdecode(b"caf\xe9.mp4"), os.fsdecode(b"d\xe9")
READ = ("plain.mp4", "IMG_0001.MP4", "IMG_0001.MOV", "clip.webm", "clip.mp4", "2021/plain.mp4", "2021/a/b.m2ts")
LEFT_OUT = {
    FOLDER: ("videos/2021/up",),
    HIDDEN: ("videos/..mp4", "videos/._plain.mp4", "videos/.hidden.mp4", "videos/__MACOSX/._clip.mp4"),
    NO_VIDEO: ("videos/2021/clip", "videos/notes.txt"),
    NOT_TEXT: (f"videos/{LATIN}", f"videos/{LATIN_FOLDER}/plain.mp4"),
    OUTSIDE: ("more.mp4",),
}


def put(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"-")


def read(folder: Path) -> Manifest:
    manifest = table.read("mine", str(folder), {})
    manifest.check()
    return manifest


def checked(folder: Path) -> Check:
    return check("mine", TaskSettings("table", str(folder), 4, 16), folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path / "videos", *READ)
    put(tmp_path, *(path for paths in LEFT_OUT.values() for path in paths if path != "videos/2021/up"))
    (tmp_path / "videos" / "2021" / "up").symlink_to("..")
    return tmp_path


def test_what_is_found_is_read_or_left_out_by_name(folder: Path) -> None:
    manifest = read(folder)
    assert {video.uri for video in manifest.videos} == {str(folder / "videos" / path) for path in READ}
    stock = take_stock(str(folder), manifest)
    assert (len(stock.read), stock.missing, stock.left_out) == (7, (), LEFT_OUT)
    assert stock.sum() == "17 found = 7 read + 10 left out"
    text = checked(folder).text()
    assert "files: 17 found = 7 read + 10 left out" in text
    assert rf"2 left out: {NOT_TEXT}: videos/caf\xe9.mp4, videos/d\xe9/plain.mp4" in text
    assert text.splitlines()[-1] == "complete: ingest takes what is there, but for 10 files"


def test_two_files_of_one_stem_get_two_ids_and_the_usual_one_keeps_its_own(folder: Path) -> None:
    ids = {video.uri.removeprefix(f"{folder}/videos/"): video.video_id for video in read(folder).videos}
    assert len(set(ids.values())) == len(READ)
    assert {name: ids[name] for name in ("plain.mp4", "clip.mp4", "IMG_0001.MP4")} == {
        "plain.mp4": "plain",
        "clip.mp4": "clip",
        "IMG_0001.MP4": "IMG_0001",
    }
    # Fixed, since a frame store and an index know a video by its id.
    assert (ids["clip.webm"], ids["2021/plain.mp4"]) == ("clip-ac2d7838", "2021-plain-e1859a69")


def test_the_log_of_an_ingest_names_them_too(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "Captions.csv").write_text("video,caption\n")
    read_manifest("mine", TaskSettings("table", str(folder), 4, 16), folder)
    assert f"task mine: 4 left out: {HIDDEN}: videos/..mp4, videos/._plain.mp4" in caplog.text
    assert r"videos/caf\xe9.mp4" in caplog.text
    assert "no table is read, and not Captions.csv" in caplog.text


def test_an_entry_that_cannot_be_looked_at_does_not_hide_the_others(tmp_path: Path) -> None:
    put(tmp_path / "videos", "good.mp4")
    for name, target in (("long.mp4", "x" * 300), ("circle.mp4", "circle.mp4"), ("nowhere.mp4", "missing")):
        (tmp_path / "videos" / name).symlink_to(target)
    found = checked(tmp_path)
    assert (found.splits["test"].videos, len(found.splits["test"].missing)) == (4, 3)
    assert found.usable


def test_a_listing_follows_links_and_uris_give_the_same(folder: Path) -> None:
    place = folder / "videos"
    (folder / "elsewhere").mkdir()
    put(folder / "elsewhere", "linked.mp4")
    (place / "link").symlink_to(folder / "elsewhere")
    (place / "plain").symlink_to("plain.mp4")
    paths = [found.path for found in walk(str(place))]
    assert "link/linked.mp4" in paths
    assert paths == sorted(paths)
    assert [found.path for found in walk(f"file://{place}")] == paths
    assert [found.path for found in names(str(place))] == [path for path in paths if "/" not in path]
    assert walk(str(folder / "missing")) == names(str(place / "plain.mp4")) == []


def test_a_benchmark_takes_the_usual_ending_and_no_hidden_file(tmp_path: Path) -> None:
    put(tmp_path / "videos", *(f"a{ending}" for ending in VIDEO_ENDINGS), ".a.mp4", LATIN, "b.MOV", "b.mov")
    found = video_files(str(tmp_path))
    assert found == {"a": str(tmp_path / "videos" / "a.mp4"), "b": str(tmp_path / "videos" / "b.mov")}


NFC, NFD = (unicodedata.normalize(form, "café.mp4") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("listed", "there", "hint"),
    [
        (NFC, NFD, "only the Unicode form differs (NFC or NFD), so copy"),
        ("Holiday.MP4", "holiday.mp4", "there is 'videos/holiday.mp4': only upper and lower case differ"),
        ("holiday.mp4", "holiday.mov", "there is 'videos/holiday.mov': with another ending"),
        ("brithday.mp4", "birthday.mp4", "did you mean 'videos/birthday.mp4'?"),
        ("holiday.mp4", "2021/holiday.mp4", "there is 'videos/2021/holiday.mp4': in another folder"),
    ],
)
def test_a_mistyped_name_is_shown_with_the_one_that_is_meant(
    tmp_path: Path, listed: str, there: str, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(f"{name}.mp4", split) for name, split in zip("abc", ("train", "val", "test"), strict=True)]
    rows.append((listed, "train"))
    (tmp_path / "captions.csv").write_text(
        "video,caption,split\n" + "".join(f"{name},about {name},{split}\n" for name, split in rows), encoding="utf-8"
    )
    put(tmp_path / "videos", "a.mp4", "b.mp4", "c.mp4", there)
    found = checked(tmp_path)
    assert found.splits["train"].missing == (str(tmp_path / "videos" / listed),)
    text = found.text()
    assert hint in text
    assert f"files: 4 found = 3 read + 1 left out\n  1 left out: {UNLISTED}: videos/{there}" in text
    read_manifest("mine", TaskSettings("table", str(tmp_path), 4, 16), tmp_path)
    assert hint in caplog.text


def test_videos_in_the_wrong_place_are_named_with_the_right_one(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "b.mov")
    with pytest.raises(DataError, match=rf"neither a table nor videos; found 'a\.mp4, b\.mov'.*into {tmp_path}/videos"):
        read(tmp_path)
