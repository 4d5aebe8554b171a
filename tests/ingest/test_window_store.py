"""Windows in a store: rows of manifest, ledger and shards, the same however they came to be, and searched alone."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import object_store
import pytest
from counted import number_of, write_counted
from test_reuse import run
from video_files import tree_bytes

from components import storage
from components.benchmarks.check import check
from components.benchmarks.reader import read_manifest
from components.errors import DataError
from components.frames import schema
from components.frames.jpeg import decode_frames
from components.frames.store import FrameStore
from components.ingest.decoders import DECODERS
from components.ingest.records import Settings
from components.ingest.run import read_settings
from components.ingest.settings import FrameSettings
from components.manifest import Manifest, Protocol
from components.task import TaskSettings, WindowSettings
from components.video import Video

s3, s3_server = object_store.s3, object_store.s3_server

DECODERS.register("breaking", "bad_decoders:breaking")
WINDOWS = WindowSettings(seconds=4, overlap=0.25)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two long files, a short one, and one that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    write_counted(folder / "long.mp4", frames=300)
    write_counted(folder / "longer.mp4", frames=500)
    write_counted(folder / "short.mp4", frames=60)
    (folder / "torn.mp4").write_text("no video")
    return folder


@pytest.fixture
def root(tmp_path: Path, videos: Path) -> Path:
    shutil.copytree(videos, tmp_path / "root" / "data" / "videos")
    return tmp_path / "root"


def parts(
    root: Path,
    windows: WindowSettings | None = WINDOWS,
    place: str = "data",
    shard_videos: int = 3,
    decoder: str = "pyav",
) -> tuple[Manifest, Settings]:
    task = TaskSettings("table", place, 4, 16, {}, windows)
    frames = FrameSettings(decoder, "segment_center", 96, 95, 444, shard_videos, 2, 30.0, 4096, 0.5, "")
    return read_manifest("mine", task, root), read_settings(task, frames)


def test_a_folder_s_long_files_have_windows_and_the_sums_add_up(root: Path) -> None:
    store = FrameStore(run(root, *parts(root)))
    assert store.ids("test") == ["long", "longer", "short"]
    assert store.failed("test") == ["torn"]
    assert [video.video_id for video in store.manifest.split("test")] == ["long", "longer", "short", "torn"]
    long = ["long@0.000-4.000", "long@3.000-7.000", "long@6.000-10.000", "long@8.000-12.000"]
    searched = store.searched_ids("all")
    assert searched[:4] == long
    assert searched[-1] == "short"
    assert len(searched) == 4 + 7 + 1
    assert [v.video_id for v in store.manifest.searched("all")] == [*searched, "torn"]
    assert store.searched_ids("train") == []
    manifest = store.manifest
    manifest.check()
    assert Counter(video.window_of for video in manifest.filmed()) == {None: 4, "long": 4, "longer": 7}
    window = manifest.by_id()[long[1]]
    assert (window.uri, window.split, window.captions) == ("data/videos/long.mp4", "test", ())
    assert (window.start_seconds, window.end_seconds, window.window_of) == (3.0, 7.0, "long")

    for stored in store.read(searched):
        shown = [number_of(picture) for picture in decode_frames(stored.frames)]
        video = manifest.by_id()[stored.video_id]
        low, high = video.start_seconds or 0.0, video.end_seconds or stored.duration_seconds
        assert shown == list(stored.frame_indices)
        assert all(low <= number / 25 < high for number in shown)

    # The ledger has a row for each, the card counts files and windows apart, and a failed file has one row.
    ledger = store.ledger().to_pylist()
    assert [row["video_id"] for row in ledger] == [video.video_id for video in manifest.videos]
    assert [(row["video_id"], row["window_of"]) for row in ledger if row["reason"]] == [("torn", None)]
    assert store.card.videos["test"] == {"decoded": 3, "failed": 1}
    assert store.card.windows == {"train": 0, "val": 0, "test": 11}
    assert sum(shard.videos for shard in store.card.shards) == 3 + 11
    assert store.card.settings.windows == WINDOWS


def test_files_have_the_rows_that_they_have_without_windows(root: Path) -> None:
    cut = FrameStore(run(root, *parts(root)))
    cut_rows = list(cut.read(cut.ids("all")))
    plain = FrameStore(run(root, *parts(root, windows=None)))
    assert cut_rows == list(plain.read(plain.ids("all")))
    assert plain.searched_ids("all") == plain.ids("all") == cut.ids("all")
    assert "windows" not in (Path(plain.uri) / schema.CARD).read_text()
    assert plain.ledger().schema.equals(schema.LEDGER_SCHEMA)
    assert plain.manifest.searched("test") == plain.manifest.split("test")


def test_other_shards_copy_windows_and_a_kill_changes_no_byte(
    root: Path, tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    manifest, settings = parts(root, decoder="breaking")
    first = run(root, manifest, settings)
    undisturbed = tree_bytes(first)
    stored = list(FrameStore(first).read(FrameStore(first).searched_ids("all")))

    # The decoding process dies once in the middle of a file, after some windows were given away.
    other = tmp_path / "other"
    shutil.copytree(videos, other / "data" / "videos")
    (other / "data" / "videos" / "longer.marker").touch()
    assert tree_bytes(run(other, *parts(other, decoder="breaking"))) == undisturbed
    assert not (other / "data" / "videos" / "longer.marker").exists()

    # A shard that is lost is made again from what is known, and other shards copy the rows without decoding.
    for name in ("long", "longer", "short"):
        (root / "data" / "videos" / f"{name}.marker").touch()  # whoever decodes now dies, and is seen to have done so
    again = FrameStore(run(root, *parts(root, shard_videos=1, decoder="breaking")))
    assert list(again.read(again.searched_ids("all"))) == stored
    assert len(list((root / "data" / "videos").glob("*.marker"))) == 3


def test_a_table_s_parts_are_cut_inside_their_spans_and_windows_have_the_facts(root: Path) -> None:
    rows = (
        "video,caption,start,end,split,year",
        "longer.mp4,late,10,20,test,2021",
        "long.mp4,long,,,val,2020",
        "longer.mp4,early,0,3,test,2019",
        "short.mp4,x,,,train,",
    )
    (root / "data" / "captions.csv").write_text("\n".join(rows))
    store = FrameStore(run(root, *parts(root)))
    assert store.searched_ids("test") == [
        "longer@10-20@10.000-14.000",
        "longer@10-20@13.000-17.000",
        "longer@10-20@16.000-20.000",
        "longer@0-3",
    ]
    assert store.ids("test") == ["longer@10-20", "longer@0-3"]
    videos = store.manifest.by_id()
    assert [dict(videos[name].facts) for name in store.searched_ids("test")] == [{"year": 2021}] * 3 + [{"year": 2019}]
    assert [video.captions for video in store.manifest.split("test")] == [("late",), ("early",)]
    note = "files longer than 4 s by a tenth are cut into windows when they are decoded"
    assert note in check("mine", TaskSettings("table", "data", 4, 16, {}, WINDOWS), root).text()


def test_videos_at_a_uri_are_cut_as_on_a_disk(s3: str, root: Path) -> None:
    here = FrameStore(run(root, *parts(root)))
    rows = list(here.read(here.searched_ids("all")))
    for path in (root / "data" / "videos").glob("*.mp4"):
        storage.upload(path, storage.join(s3, "mine", "videos", path.name))
    there = FrameStore(run(root.parent / "there", *parts(root, place=storage.join(s3, "mine"))))
    assert list(there.read(there.searched_ids("all"))) == rows


def test_an_id_that_is_a_window_s_too_is_named(root: Path) -> None:
    (root / "data" / "videos" / "short.mp4").rename(root / "data" / "videos" / "long@3.000-7.000.mp4")
    with pytest.raises(DataError, match=r"video id occurs twice; found 'long@3\.000-7\.000'"):
        run(root, *parts(root))


@pytest.mark.parametrize(
    "change", [{"split": "val"}, {"uri": "b.mp4"}, {"window_of": "gone"}, {"window_of": "a@0.000-1.000"}]
)
def test_a_window_fits_its_video(change: dict[str, str]) -> None:
    row = {"uri": "a.mp4", "split": "test", "captions": (), "window_of": "a", **change}
    videos = [
        Video(name, "a.mp4", name if name in ("train", "val") else "test", ("x",)) for name in ("a", "train", "val")
    ]
    window = Video("a@0.000-1.000", start_seconds=0.0, end_seconds=1.0, **row)  # type: ignore[arg-type]
    manifest = Manifest("t", Protocol("table", "x", "every caption", "column"), (*videos, window))
    with pytest.raises(DataError, match="window names a video"):
        manifest.check()
