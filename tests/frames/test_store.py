from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_store import FAILED, SETTINGS, make_store
from video_files import tree_bytes

from components.errors import DataError
from components.frames import schema
from components.frames.store import FrameStore, StoredVideo
from components.ingest.shards import plan_shards
from components.manifest import Manifest, Protocol
from components.video import Video


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder)
    return FrameStore(folder)


def test_ids_and_failures_by_split_in_manifest_order(store: FrameStore) -> None:
    assert store.ids("test") == ["test4", "test3", "test2", "test1"]
    assert store.failed("test") == ["test0"]
    assert store.ids("all") == [video.video_id for video in store.manifest.videos if video.video_id not in FAILED]
    assert store.failed("all") == ["test0", "train3"]
    with pytest.raises(DataError, match=r"unknown split.*'dev'"):
        store.ids("dev")


def test_the_ledger_has_a_row_per_video(store: FrameStore) -> None:
    ledger = store.ledger()
    assert ledger.schema.equals(schema.LEDGER_SCHEMA)
    assert ledger["video_id"].to_pylist() == [video.video_id for video in store.manifest.videos]
    assert {row["reason"] for row in ledger.to_pylist() if row["status"] == "failed"} == {"timeout"}


def test_the_card_counts(store: FrameStore) -> None:
    assert store.card.videos["train"] == {"decoded": 9, "failed": 1}
    assert store.card.failed == {"timeout": 2}
    assert [shard.videos for shard in store.card.shards] == [4, 3, 2, 2, 4, 0]
    assert store.card.settings.frames == 2


def test_the_card_keeps_its_bytes(store: FrameStore) -> None:
    written = (Path(store.uri) / schema.CARD).read_text()
    assert store.card.to_json() == written
    content = json.loads(written)
    assert json.dumps(content, indent=1) + "\n" == written
    keys = "format task benchmark fingerprint settings frames videos failed bytes bytes_per_video versions shards"
    assert list(content) == keys.split()
    assert list(content["shards"][0]) == ["name", "bytes", "sha256", "videos"]
    assert content["settings"] == SETTINGS.to_dict()
    assert list(content["settings"]) == list(SETTINGS.to_dict())


def test_a_card_without_chroma_is_an_older_one(tmp_path: Path) -> None:
    make_store(tmp_path)
    card = json.loads((tmp_path / schema.CARD).read_text())
    del card["settings"]["chroma"]
    (tmp_path / schema.CARD).write_text(json.dumps(card))
    assert FrameStore(tmp_path).card.settings.chroma is None
    del card["fingerprint"], card["settings"]["frames"]
    (tmp_path / schema.CARD).write_text(json.dumps(card))
    with pytest.raises(
        DataError, match=r"(?s)card\.json: 2 fault\(s\).*fingerprint: missing.*settings\.frames: missing"
    ):
        FrameStore(tmp_path)


def test_a_video_comes_back_whole(store: FrameStore) -> None:
    (video,) = store.read(["train9"])
    pictures = [b"train9 0", b"train9 1"]
    assert video == StoredVideo(
        "train9", pictures, (0.5, 1.5), (6, 18), 42, 32, 64, 48, 24, 12.0, 2.0, "ab", "decord 0.6.0", None
    )


decoded = [f"train{k}" for k in range(10) if k != 3] + ["val0", "val1", "test1", "test2", "test3", "test4"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(decoded), max_size=40))
def test_videos_come_in_the_order_asked_even_twice(store: FrameStore, ids: list[str]) -> None:
    assert [video.video_id for video in store.read(ids)] == ids


def test_requests_longer_than_a_window(store: FrameStore) -> None:
    ids = decoded * 40
    assert [video.frames[0] for video in store.read(ids)] == [f"{name} 0".encode() for name in ids]


def test_what_is_not_there_is_refused_before_reading(store: FrameStore) -> None:
    with pytest.raises(DataError, match=r"no frames in this store.*test0, nobody"):
        store.read(["train1", "test0", "nobody"])


def test_blobs_are_stored_plainly_in_small_groups(store: FrameStore) -> None:
    shard = pq.ParquetFile(Path(store.uri) / schema.shard_name(0))
    assert shard.schema_arrow.equals(schema.FRAMES_SCHEMA)
    assert [shard.metadata.row_group(k).num_rows for k in range(shard.num_row_groups)] == [3, 1]
    column = shard.metadata.row_group(0).column(1)
    assert (column.path_in_schema, column.compression, column.statistics) == (
        "frames.list.element",
        "UNCOMPRESSED",
        None,
    )
    assert "RLE_DICTIONARY" not in column.encodings
    empty = pq.read_table(Path(store.uri) / schema.shard_name(5))
    assert (empty.num_rows, empty.schema.equals(schema.FRAMES_SCHEMA)) == (0, True)


def test_the_same_content_has_the_same_bytes(store: FrameStore, tmp_path: Path) -> None:
    make_store(tmp_path)
    assert tree_bytes(tmp_path) == tree_bytes(Path(store.uri))


def test_a_store_opens_through_a_uri(store: FrameStore) -> None:
    assert [video.video_id for video in FrameStore(Path(store.uri).as_uri()).read(["val1"])] == ["val1"]


def test_incomplete_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no frame store.*run pipelines/ingest\.py"):
        FrameStore(tmp_path / "none")
    make_store(tmp_path)
    shard = tmp_path / schema.shard_name(2)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"shard-00002\.parquet: shard is damaged"):
        FrameStore(tmp_path)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00002\.parquet: shard is missing"):
        FrameStore(tmp_path)
    card = json.loads((tmp_path / schema.CARD).read_text())
    (tmp_path / schema.CARD).write_text(json.dumps({**card, "format": 99}))
    with pytest.raises(DataError, match="another format; found 99; expected 2"):
        FrameStore(tmp_path)
    (tmp_path / schema.CARD).write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        FrameStore(tmp_path)


@given(st.integers(1, 9), st.lists(st.sampled_from(["train", "val", "test"]), max_size=40))
def test_shards_hold_every_video_once_and_one_split_each(size: int, splits: list[str]) -> None:
    videos = tuple(Video(f"v{k}", "u", split, ("c",)) for k, split in enumerate(splits))
    shards = plan_shards(Manifest("t", Protocol("b", "v", "c", "v"), videos), size)
    assert sorted(video.video_id for shard in shards for video in shard.videos) == sorted(v.video_id for v in videos)
    assert all(len({video.split for video in shard.videos}) == 1 for shard in shards)
    assert all(1 <= len(shard.videos) <= size for shard in shards)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert pa.Table.from_pylist([shard.to_row() for shard in shards]).num_rows == len(shards)
