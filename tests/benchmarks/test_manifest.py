from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import write_collection

from components.benchmarks.reader import read_manifest
from components.errors import ConfigError, DataError
from components.manifest import NO_CAPTIONS, Manifest, Protocol, first_few
from components.task import TaskSettings
from components.video import Moment, Video

PROTOCOL = Protocol("msrvtt", "9k / 1k-A", "one caption per test video", "MSRVTT_val.csv")
SOUND = tuple(Video(f"v{split}", f"videos/v{split}.mp4", split, ("a caption",)) for split in ("train", "val", "test"))


def manifest(*videos: Video) -> Manifest:
    return Manifest("small", PROTOCOL, (*SOUND, *videos))


def test_a_sound_manifest_passes() -> None:
    manifest(Video("more", "m.mp4", "test", ("x",), 1.5, 2.0, ("temporal",))).check()


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (Video("vtrain", "a", "train", ("x",)), "video id occurs twice; found 'vtrain'"),
        (Video("vtrain", "a", "test", ("x",)), "video is in two splits; found 'vtrain'"),
        (Video("../up", "a", "train", ("x",)), r"not usable as a file name; found '\.\./up'"),
        (Video("a..b", "a", "train", ("x",)), "not usable as a file name"),
        (Video("a/b", "a", "train", ("x",)), "not usable as a file name"),
        (Video("a\\b", "a", "train", ("x",)), "not usable as a file name"),
        (Video("a\0b", "a", "train", ("x",)), "not usable as a file name"),
        (Video("", "a", "train", ("x",)), "not usable as a file name"),
        (Video("w", "a", "train", ()), "without a caption, or with an empty one; found 'w'"),
        (Video("w", "a", "train", ("x", " \n")), "without a caption, or with an empty one; found 'w'"),
        (Video("w", "a", "train", ("x",), 2.0, 2.0), "segment ends before it starts; found 'w'"),
        (
            Video("w", "a", "train", ("x",), moments=(Moment("x", ((2.0, 2.0),)),)),
            "moment without text, or .* found 'w'",
        ),
        (
            Video("w", "a", "train", ("x",), moments=(Moment(" ", ((0.0, 2.0),)),)),
            "moment without text, or .* found 'w'",
        ),
        (Video("w", "a", "train", ("x",), moments=(Moment("x", ()),)), "without a span that ends .* found 'w'"),
        (Video("w", "a", "train", ("x",), moments=(Moment("\ud83d", ((0.0, 1.0),)),)), "half a character .* found 'w'"),
        (Video("w", "a", "dev", ("x",)), r"unknown split; found \['dev'\]"),
    ],
)
def test_an_unsound_manifest_is_refused(video: Video, message: str) -> None:
    with pytest.raises(DataError, match=f"task small: .*{message}"):
        manifest(video).check()


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="split without videos; found 'val'"):
        Manifest("small", PROTOCOL, (SOUND[0], SOUND[2])).check()


def test_a_collection_to_search_has_one_split_and_no_captions() -> None:
    search = Protocol("table", "videos alone", NO_CAPTIONS, "none")
    Manifest("mine", search, (Video("a", "a.mp4", "test", ()),)).check()
    with pytest.raises(DataError, match="without a caption, or with an empty one; found 'a'"):
        Manifest("mine", search, (Video("a", "a.mp4", "test", ("a text",)),)).check()
    with pytest.raises(
        DataError, match="split without videos; found 'test'; expected at least one video in each of test"
    ):
        Manifest("mine", search, (Video("a", "a.mp4", "train", ()),)).check()


names = st.text(min_size=1, max_size=8)
spans = st.tuples(st.floats(0, 1e6), st.floats(0, 1e6))
videos = st.builds(
    Video,
    video_id=names,
    uri=names,
    split=st.sampled_from(["train", "val", "test"]),
    captions=st.lists(names, max_size=3).map(tuple),
    start_seconds=st.none() | st.floats(0, 1e6),
    end_seconds=st.none() | st.floats(0, 1e6),
    subsets=st.lists(names, max_size=2).map(tuple),
    moments=st.lists(st.builds(Moment, names, st.lists(spans, max_size=2).map(tuple)), max_size=2).map(tuple),
)


@settings(deadline=None)
@given(st.lists(videos, max_size=6).map(tuple))
def test_tables_keep_everything(rows: tuple[Video, ...]) -> None:
    before = Manifest("task", PROTOCOL, rows)
    after = Manifest.from_table(before.to_table())
    assert after == before
    assert after.fingerprint() == before.fingerprint()


@settings(deadline=None)
@given(st.lists(videos, min_size=1, max_size=4).map(tuple), st.sampled_from(["video_id", "uri", "split"]))
def test_any_change_of_a_row_changes_the_fingerprint(rows: tuple[Video, ...], field: str) -> None:
    before = Manifest("task", PROTOCOL, rows)
    changed = dataclasses.replace(rows[-1], **{field: getattr(rows[-1], field) + "x"})
    assert Manifest("task", PROTOCOL, (*rows[:-1], changed)).fingerprint() != before.fingerprint()
    assert Manifest("task", dataclasses.replace(PROTOCOL, variant="7k"), rows).fingerprint() != before.fingerprint()


def test_moments_leave_a_manifest_as_it_was() -> None:
    """They decide neither frames nor training, so a store that gets them is still the same store."""
    video = Video("a", "a.mp4", "test", ("x",))
    timed = dataclasses.replace(video, moments=(Moment("x", ((0.0, 1.5), (2.0, 3.0))),))
    assert manifest(timed).fingerprint() == manifest(video).fingerprint()
    assert manifest(video).to_table().schema.names[-1] == "subsets"
    assert Manifest.from_table(manifest(timed).to_table()).by_id()["a"].moments == timed.moments


def test_another_table_is_no_manifest() -> None:
    with pytest.raises(DataError, match="not a manifest table"):
        Manifest.from_table(pa.table({"video_id": ["a"]}))


def test_messages_name_the_first_ids_and_the_count() -> None:
    assert first_few(["a", "b"]) == "a, b"
    assert first_few([f"v{k}" for k in range(9)]) == "v0, v1, v2, v3, v4 and 4 more (9 in all)"


def test_uris_are_relative_to_the_root(tmp_path: Path) -> None:
    ids = write_collection(tmp_path / "data" / "small", train=1, val=1, test=1)
    read = read_manifest("small", TaskSettings("msrvtt", "data/small", 4, 16), tmp_path)
    assert [video.uri for video in read.videos] == [f"data/small/videos/{name}.mp4" for name in ids]
    elsewhere = read_manifest("small", TaskSettings("msrvtt", str(tmp_path / "data/small"), 4, 16), tmp_path / "other")
    assert elsewhere.videos[0].uri == str(tmp_path / "data/small/videos/video0.mp4")


def test_an_unknown_benchmark_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.small\.benchmark: unknown benchmark.*did you mean 'msrvtt'"):
        read_manifest("small", TaskSettings("msrvt", "data", 4, 16), tmp_path)
