"""Tables as people and spreadsheets write them: nothing is cut or skipped in silence, and every cure cures."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.benchmarks import table
from components.benchmarks.check import check
from components.errors import DataError
from components.manifest import Manifest
from components.task import TaskSettings
from components.video import Facts

FOUR = "a.mp4,a cat\nb.mp4,a dog\nc.mp4,a bird\nd.mp4,a fish\n"


def read(folder: Path, text: str | None = None, **options: object) -> Manifest:
    if text is not None:
        (folder / "captions.csv").write_text(text, encoding="utf-8")
    manifest = table.read("mine", str(folder), dict(options))
    manifest.check()
    return manifest


def checked(folder: Path) -> str:
    (folder / "videos").mkdir(exist_ok=True)
    for name in "abcd":
        (folder / "videos" / f"{name}.mp4").write_bytes(b"-")
    return check("mine", TaskSettings("table", str(folder), 4, 16), folder).text()


def test_a_caption_with_commas_needs_quotes_and_is_never_cut(tmp_path: Path) -> None:
    text = "video,caption\n" + FOUR + "a.mp4,a dog, two cats and a bird\nb.mp4,fine\nc.mp4,one, two, three\n"
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert str(caught.value) == (
        f"{tmp_path}/captions.csv:6: row has more fields than the header (and 1 more rows); "
        "found '3 fields, the header has 2'; expected a comma only between fields; "
        'put a text with commas into double quotes: "a dog, two cats and a bird"'
    )
    assert "captions.csv:6: row has more fields" in checked(tmp_path)
    quoted = text.replace("a dog, two cats and a bird", '"a dog, two cats and a bird"')
    manifest = read(tmp_path, quoted.replace("one, two, three", '"one, two, three"'))
    assert manifest.by_id()["a"].captions == ("a cat", "a dog, two cats and a bird")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,caption,caption\na.mp4,b,c\n", "captions.csv: column occurs twice; found 'caption'"),
        ("video,caption,Split\na.mp4,b,test\n", "captions.csv: column is spelled differently; found 'Split'"),
        ("video,caption\na.mp4,b,\n", "captions.csv:2: row has more fields than the header; found '3 fields"),
        ("Video,Caption\na.mp4,b\n", "column is missing; found ['Video', 'Caption']; expected video, caption"),
        ('video,caption\na.mp4,"b\nc.mp4,d\ne.mp4,f"\n', "captions.csv:4: a caption holds what looks like a row"),
        ('video,caption\na.mp4,b "c"" d\ne.mp4,"f\n', "captions.csv:3: not CSV"),
        ("video;caption\na.mp4;b\n", "column is missing; found ['video;caption']"),
        ("video,caption\na.mp4,b\nvideo,caption\nc.mp4,d\n", "captions.csv:3: the header again; remove this line"),
        ("video,caption\na.mp4,b\nc.mp4,\u200b\n", "captions.csv:3: empty caption; found '\\u200b'"),
        ("video,caption\na.mp4,b,c\nd.mp4,\n", "captions.csv:2: row has more fields than the header; found '3 fields"),
        ("video,caption\nd.mp4,\na.mp4,b,c\n", "captions.csv:2: field is empty; expected caption"),
        ("video,caption\nvideos,b\n", "captions.csv:2: not a path below the collection's folder; found 'videos'"),
        ("video,caption,start\na.mp4,b," + "9" * 400 + "\n", "captions.csv:2: start is not a time"),
    ],
)
def test_faults_of_a_header_or_a_row_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read(tmp_path, text)


def test_rows_that_repeat_are_one_query_and_are_counted(tmp_path: Path) -> None:
    rows = "a.mp4,a cat,test\nb.mp4,a dog,train\nc.mp4,a bird,val\na.mp4, a  cat ,test\na.mp4,it sleeps,test\n"
    manifest = read(tmp_path, "video,caption,split\n" + rows + "a.mp4,a cat,test\n")
    assert manifest.by_id()["a"].captions == ("a cat", "it sleeps")
    place = tmp_path / "captions.csv"
    assert manifest.notes == (f"rows that repeat a caption of their video count once: {place}:5, {place}:7",)
    assert f"note: {manifest.notes[0]}" in checked(tmp_path)


def test_columns_and_tables_that_are_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "captions.xlsx").write_bytes(b"-")
    rows = "".join(f"{number},{number % 5}.mp4,about {number},2\n" for number in range(10))
    manifest = read(tmp_path, "id,video,caption,score\n" + rows)
    assert {video.facts for video in manifest.videos} == {Facts()}
    assert manifest.notes == (
        "columns of captions.csv that are not read, since rows of one video differ in them: id",
        "columns of captions.csv that are not read, since a search has a column of this name: score",
        "captions.csv is read, and not captions.xlsx (tables are captions.csv, captions.jsonl, captions.parquet)",
    )


def test_equal_captions_of_different_videos_are_counted(tmp_path: Path) -> None:
    rows = "".join(
        f"{name}.mp4,a man talks,{'train' if name in 'ab' else name}\n" for name in ("a", "b", "val", "test")
    )
    read(tmp_path, "video,caption,split\n" + rows + "val.mp4,another,val\n")
    text = checked(tmp_path)
    assert "note: 2 videos of train share a caption with another video, such as 'a man talks' (2 videos)" in text
    assert "videos of val" not in text


@pytest.mark.parametrize("count", [3, 4, 8])
def test_a_small_collection_has_every_split(tmp_path: Path, count: int) -> None:
    names = [f"clip{number}" for number in range(count)]
    text = "video,caption\n" + "".join(f"{name}.mp4,about {name}\n" for name in names)
    splits = {video.video_id: video.split for video in read(tmp_path, text).videos}
    by_hash = {name: table.split_of(f"{name}.mp4", 0.1, 0.1) for name in names}
    assert {split: list(splits.values()).count(split) for split in ("val", "test")} == {"val": 1, "test": 1}
    assert sum(splits[name] != by_hash[name] for name in names) <= 2
    assert read(tmp_path).protocol.validation.endswith("by SHA-256 of the file, at least one file each")
    assert read(tmp_path, test_share=0.98, val_share=0.01).split("train")


def test_too_few_files_and_a_column_without_a_split_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"captions\.csv: too few files .*; found 2; expected at least 3; add videos, or"
    ):
        read(tmp_path, "video,caption\na.mp4,b\nc.mp4,d\n")
    with pytest.raises(DataError, match=r"the column split leaves .*; found 'val, test'.*remove the column") as caught:
        read(tmp_path, "video,caption,split\na.mp4,b,train\nc.mp4,d,train\ne.mp4,f,train\n")
    assert "captions.csv" in str(caught.value)
    assert len(read(tmp_path, "video,caption\na.mp4,b\nc.mp4,d\ne.mp4,f\n").videos) == 3  # the cure


def test_rows_without_anything_are_none(tmp_path: Path) -> None:
    """Spreadsheets leave empty cells at the end."""
    plain = read(tmp_path, "video,caption\n" + FOUR)
    assert read(tmp_path, "video,caption\n,\n" + FOUR + "\n  \n , \n,,,\n") == plain


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_the_cure_for_another_encoding_cures(tmp_path: Path, encoding: str) -> None:
    name = tmp_path / "captions.csv"
    name.write_bytes(("video,caption\n" + FOUR.replace("a bird", "a café")).encode(encoding))
    with pytest.raises(DataError, match=r"captions\.csv:\d+: not UTF-8") as caught:
        read(tmp_path)
    command = re.search(r"`(.+)`", str(caught.value))
    assert command is not None
    subprocess.run(command[1], shell=True, check=True, cwd=tmp_path)
    assert read(tmp_path).by_id()["c"].captions == ("a café",)


def test_the_cure_for_zeros_cures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"captions\.csv:2: not UTF-8 at byte 21; found b'\\x00'") as caught:
        read(tmp_path, "video,caption\n" + FOUR.replace("a cat", "a\0 cat"))
    command = re.search(r"`(.+)`", str(caught.value))
    assert command is not None
    subprocess.run(command[1], shell=True, check=True, cwd=tmp_path)
    assert read(tmp_path).by_id()["a"].captions == ("a cat",)


def test_two_files_of_one_stem_and_close_segments_get_two_ids(tmp_path: Path) -> None:
    rows = "a.mp4,b,1.0000001,2\na.mp4,c,1.0000002,2\na.mov,d,,\n..mp4,e,,\n"
    manifest = read(tmp_path, "video,caption,start,end\n" + rows)
    ids = [video.video_id for video in manifest.videos]
    assert ids == ["a@1-2", "a-e6d48eab@1.0000002-2.0", "a", "video-2fdbd3bc"]


def test_damaged_parquet_is_one_error_wherever_the_damage_is(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    rows = [{"video": f"{number}.mp4", "caption": f"about {number} " * 9} for number in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), path, write_page_checksum=True)
    whole = path.read_bytes()
    sound = read(tmp_path).videos
    refused = []
    for place in range(0, len(whole), max(1, len(whole) // 100)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            videos = read(tmp_path).videos
        except DataError as error:
            refused.append(str(error))
        else:
            assert videos == sound
    assert len(refused) > 30
    assert all(str(path) in message for message in refused)


def test_parquet_that_states_more_than_it_has_takes_no_memory(tmp_path: Path) -> None:
    column = pa.DictionaryArray.from_arrays(pa.nulls(3_000_000, pa.int8()).fill_null(0), ["a"])
    pq.write_table(pa.table({"video": column, "caption": column}), tmp_path / "captions.parquet")
    with pytest.raises(DataError, match=r"captions\.parquet: not Parquet, or damaged; found '3,000,000 rows and"):
        read(tmp_path)
