"""Videos and stores at URIs of a real S3 API: complete or missing, and with the same bytes as on a disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import object_store
import pytest
from made_store import make_store
from test_reuse import run
from video_files import small_params, tree_bytes, write_collection, write_msrvtt

from components import storage
from components.benchmarks.reader import read_manifest
from components.frames import schema
from components.frames.store import FrameStore
from components.ingest import sources
from components.ingest.decoders import DECODERS
from components.ingest.isolation import DecodeProcess
from components.ingest.progress import ShardLog
from components.ingest.publish import publish
from components.ingest.records import Shard
from components.ingest.run import Summary, ingest, read_settings
from components.ingest.shards import make_shard
from components.layout import Layout
from components.params import Params
from components.video import Video

s3, s3_server = object_store.s3, object_store.s3_server

DECODERS.register("journal", "bad_decoders:journal")


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "journal"
    folder.mkdir()
    monkeypatch.setenv("REELTUNE_TEST_JOURNAL", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return folder / "journal"


def ingest_small(root: Path, params: Params) -> Summary:
    return ingest(root, "small", params.task("small"), params.frames, params.ray)


def put(folder: Path, uri: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            storage.upload(path, storage.join(uri, path.relative_to(folder).as_posix()))


@pytest.mark.slow
def test_videos_and_store_at_uris_give_the_bytes_of_a_disk(
    s3: str,
    tmp_path: Path,
    journal: Path,
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    data, bucket = here / "data" / "small", storage.join(s3, "data", "small")
    write_collection(data, train=3, val=1, test=2)
    write_msrvtt(data, ["video0", "video1", "video2", "no such video"], ["video3"], ["video4", "video5"])
    put(data, bucket)
    local = ["frames.decoder=journal", "frames.max_failed_share=0.5"]
    remote = [*local, f"tasks.small.root='{bucket}'", f"frames.store='{storage.join(s3, 'stores')}'"]

    summary = ingest_small(there, small_params(there, *remote))
    assert summary.failed == {"missing_file": ["no such video"]}
    assert summary.store == storage.join(s3, "stores", "small")
    plain = small_params(here, *local)
    settings = read_settings(plain.task("small"), plain.frames)
    expected = FrameStore(run(here, read_manifest("small", plain.task("small"), here), settings))
    for store in (FrameStore(Layout(there).frames("small")), FrameStore(summary.store)):
        assert list(store.read(store.ids("all"))) == list(expected.read(expected.ids("all")))
        assert store.ledger().equals(expected.ledger())
        assert store.card.shards == expected.card.shards
    found = sorted(path.name for path in Layout(there).frames("small").iterdir())
    assert found == [schema.CARD, schema.TRAINING]

    # The second run decodes nothing. If an object changes, it is decoded, and only its shard's object is replaced.
    before = storage.list_files(summary.store), len(journal.read_text().split())
    assert ingest_small(there, small_params(there, *remote)).videos_made == 0
    assert storage.list_files(summary.store) == before[0]
    shutil.copyfile(data / "videos" / "video5.mp4", data / "videos" / "video1.mp4")
    storage.upload(data / "videos" / "video1.mp4", storage.join(bucket, "videos", "video1.mp4"))
    params = small_params(there, *remote)
    made = run(there, read_manifest("small", params.task("small"), there), settings)
    # This content is known from video5, so not even it is decoded.
    assert len(journal.read_text().split()) == before[1]
    publish(made, Layout(there).frames("small"), summary.store)
    (video,) = FrameStore(summary.store).read(["video1"])
    assert video.source_frames == 25
    # Its ledger row is the same as before.
    assert len(set(storage.list_files(summary.store)) - set(before[0])) == 1


def test_a_store_at_a_uri_is_replaced_by_its_card(s3: str, tmp_path: Path) -> None:
    folder, target, place = tmp_path / "state" / "store", tmp_path / "out" / "small", storage.join(s3, "stores/small")
    make_store(folder)
    assert publish(folder, target, place) == place
    old = FrameStore(place)
    first = set(storage.list_files(place))
    (tmp_path / "mine").write_text("mine")
    storage.upload(tmp_path / "mine", storage.join(place, "notes.txt"))

    # A publication that fails before its card leaves the old store as it was.
    card = json.loads((folder / schema.CARD).read_text())
    shard = folder / schema.shard_name(0)
    shard.write_bytes((folder / schema.shard_name(1)).read_bytes())
    card["shards"][0] |= {"bytes": shard.stat().st_size, "sha256": "0" * 64}
    (folder / schema.CARD).write_text(json.dumps(card))
    (folder / schema.LEDGER).rename(folder / "ledger elsewhere")
    with pytest.raises(FileNotFoundError):
        publish(folder, target, place)
    assert FrameStore(target).card == old.card

    (folder / "ledger elsewhere").rename(folder / schema.LEDGER)
    publish(folder, target, place)
    assert FrameStore(target).card.shards[0].sha256 == "0" * 64
    # A reader of the old card still finds its files. The next publication deletes them.
    assert len(list(old.read(old.ids("all")))) == 15
    assert first <= set(storage.list_files(place))
    publish(folder, target, place)
    assert len(set(storage.list_files(place)) - first) == 2
    assert first - set(storage.list_files(place)) == {f"shard-00000-{old.card.shards[0].sha256[:16]}.parquet"}
    assert "notes.txt" in storage.list_files(place)


def test_a_store_may_be_in_another_folder(tmp_path: Path) -> None:
    folder, target = tmp_path / "state" / "store", tmp_path / "out" / "small"
    make_store(folder)
    publish(folder, target, str(tmp_path / "big disk" / "small"))
    store = FrameStore(target)
    assert store.uri == str(tmp_path / "big disk" / "small")
    assert len(list(store.read(store.ids("all")))) == 15
    publish(folder, target, None)
    assert FrameStore(target).uri == str(target)
    assert tree_bytes(target) == tree_bytes(folder)


def test_a_storage_that_does_not_answer_is_a_separate_reason(
    s3: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_collection(tmp_path / "videos", train=1, val=0, test=0)
    place = storage.join(s3, "a b.mp4")
    storage.upload(tmp_path / "videos" / "videos" / "video0.mp4", place)
    nobody = "s3://bucket/a.mp4?endpoint_override=127.0.0.1:9&scheme=http"
    params = small_params(tmp_path)
    settings = read_settings(params.task("small"), params.frames)
    videos = (Video("good", place, "train", ()), Video("away", nobody, "train", ()))
    log = tmp_path / "log.jsonl"
    with ShardLog(log) as log_video, settings.process() as process:
        done = make_shard(Shard(0, videos), tmp_path, tmp_path / "out", settings, process, log_video=log_video)
    assert [(row.reason, row.detail) for row in done.ledger] == [("", ""), ("not_fetched", "OSError")]
    assert not done.is_complete
    assert [json.loads(line)["reason"] for line in log.read_text().splitlines()] == ["", "not_fetched"]

    # A download that breaks off is tried again.
    attempts: list[str] = []
    whole = storage.download

    def breaking(location: str, target: Path) -> None:
        attempts.append(location)
        if len(attempts) < sources.TRIES:
            target.write_bytes(b"half")
            raise OSError("connection reset")
        whole(location, target)

    monkeypatch.setattr("components.storage.download", breaking)
    monkeypatch.setattr("components.ingest.sources.time.sleep", lambda seconds: None)
    with DecodeProcess(settings.recipe, 30) as process, sources.local_file(place) as path:
        assert process.decode(path, None, None).reason is None
        assert Path(path).name == "a b.mp4"
    assert not Path(path).exists()
    assert len(attempts) == sources.TRIES


def test_a_video_that_was_not_fetched_is_tried_again(
    s3: str,
    tmp_path: Path,
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = write_collection(tmp_path / "data" / "small", train=2, val=1, test=1)
    data, bucket = tmp_path / "data" / "small", storage.join(s3, "data")
    put(data, bucket)
    params = small_params(tmp_path, "frames.decoder=journal", f"tasks.small.root='{bucket}'")
    manifest = read_manifest("small", params.task("small"), tmp_path)
    settings = read_settings(params.task("small"), params.frames)

    def lose(location: str, target: Path) -> None:
        raise OSError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr("components.storage.download", lose)
        patch.setattr("components.ingest.sources.time.sleep", lambda seconds: None)
        store = run(tmp_path, manifest, settings)
    assert json.loads((store / schema.CARD).read_text())["failed"] == {"not_fetched": 4}
    assert not journal.exists()
    run(tmp_path, manifest, settings)
    assert sorted(journal.read_text().split()) == names
    assert json.loads((store / schema.CARD).read_text())["failed"] == {}


def test_a_table_on_a_disk_names_videos_at_uris(s3: str, tmp_path: Path) -> None:
    write_collection(tmp_path / "made", train=2, val=0, test=1)
    for number in range(3):
        storage.upload(tmp_path / "made" / "videos" / f"video{number}.mp4", storage.join(s3, f"a video {number}.mp4"))
    place, options = s3.split("?")
    rows = [f"{place}/a video {number}.mp4?{options},a caption {number},{split}" for number, split in
            enumerate(("train", "val", "test"))]  # fmt: skip
    table = tmp_path / "data" / "small" / "captions.csv"
    table.parent.mkdir(parents=True)
    table.write_text("\n".join(["video,caption,split", *rows]))
    task = "tasks={small: {benchmark: table, root: data/small, frames: 4, words: 16}}"
    params = small_params(tmp_path, task)
    manifest = read_manifest("small", params.task("small"), tmp_path)
    # The address of the bucket's server is not part of an id.
    assert [video.video_id.rpartition("-")[0] for video in manifest.videos] == [
        f"{place.replace('://', '-').replace('/', '-')}-a-video-{number}" for number in range(3)
    ]
    store = run(tmp_path, manifest, read_settings(params.task("small"), params.frames))
    assert [video.source_frames for video in FrameStore(store).read(FrameStore(store).ids("all"))] == [20, 21, 22]
