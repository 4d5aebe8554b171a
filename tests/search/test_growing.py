"""An index that grows: only what is new is embedded, nothing else is rewritten, and a reader sees one version."""

from __future__ import annotations

import dataclasses
import json
import logging
import resource
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny_world
import torch
import trained_world
from tiny_world import TASK

from components.adapters.card import read_card
from components.adapters.file import load_adapter
from components.cluster import RaySettings
from components.errors import DataError
from components.frames.store import FrameStore, StoredVideo
from components.layout import Layout
from components.methods.base import Method
from components.search import index as indexes
from components.search import plan as plans
from components.search import segment_writer, segments
from components.search.backbones import shared_backbone
from components.search.card import read_index_card
from components.search.embed import Block, Embedder, Encoding, disk_faults, run_alone, run_on_ray
from components.search.index import Index, Recipe, grow, publish
from components.search.rows import Row, table_of
from components.search.stage import AdapterOpener, finish
from components.video import Fact, Facts, Video

VIDEOS = tiny_world.videos(4, 4, 40)
Run = Callable[[Sequence[Block]], None]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with an adapter and a store of 40 test videos, and without an index."""
    root = tmp_path_factory.mktemp("growing")
    tiny_world.write_params(root)
    tiny_world.write_backbone(root)
    tiny_world.write_store(root, VIDEOS)
    trained_world.add_adapter(root, tiny_world.params(root), "vop", 0)
    return root


@pytest.fixture
def root(ready: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ready, tmp_path / "project"))


def restore(root: Path, videos: Sequence[Video]) -> None:
    """Publishes a store of other videos."""
    shutil.rmtree(Layout(root).frames(TASK))
    tiny_world.write_store(root, tuple(videos))


class Stage:
    """What the index stage does, with blocks of eight rows. It counts what is embedded."""

    def __init__(self, root: Path, *, frame_vectors: bool = False) -> None:
        self.layout, self.adapter = Layout(root), Layout(root).adapter(TASK, "vop", 0)
        self.folder, self.work = self.layout.index(TASK), self.layout.index_work(TASK)
        params = tiny_world.params(root)
        self.method: Method = load_adapter(self.adapter, shared_backbone(params.backbone, root))
        self.encoding = Encoding(2, frame_vectors=frame_vectors, threads=1)
        self.recipe = Recipe(read_card(self.adapter).sha256, self.encoding, "the encoder")
        self.embedded: list[str] = []

    def alone(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            run_alone(Embedder(self.method, self.store, self.encoding), [block])
            self.embedded += [row.video.video_id for row in block.rows]

    @property
    def store(self) -> FrameStore:
        return FrameStore(self.layout.frames(TASK))

    def grow(self, run: Run | None = None, split: str = "test") -> Index:
        self.embedded.clear()
        with disk_faults(self.folder):
            return grow(self.method, self.store, split, self.recipe, self.folder, self.work, run or self.alone)

    def publish(self, run: Run | None = None, split: str = "test") -> Index:
        publish(self.grow(run, split), self.folder, self.adapter, {})
        finish(self.layout, TASK)
        return indexes.read(self.folder)


def ids(index: Index) -> list[str]:
    found: list[str] = index.table()["video_id"].to_pylist()
    return found


def vectors(index: Index) -> dict[str, bytes]:
    return {name: index.vectors_of([row]).tobytes() for row, name in enumerate(ids(index))}


def test_adding_embeds_what_is_new_and_rewrites_nothing(root: Path) -> None:
    stage = Stage(root)
    restore(root, VIDEOS[:-1])
    first = stage.publish()
    files = {path: path.stat().st_ino for path in stage.folder.rglob("segments/*/*")}
    before = vectors(first)
    restore(root, VIDEOS)
    second = stage.publish()
    assert stage.embedded == [VIDEOS[-1].video_id]
    assert [part.card.rows for part in second.segments] == [39, 1]
    assert files.items() <= {path: path.stat().st_ino for path in stage.folder.rglob("segments/*/*")}.items()
    assert {name: row for name, row in vectors(second).items() if name in before} == before
    assert ids(second) == [video.video_id for video in VIDEOS if video.split == "test"]
    stage.publish()
    assert stage.embedded == []


def test_removed_videos_are_not_answered_and_nothing_is_rewritten(root: Path) -> None:
    stage = Stage(root)
    first = stage.publish()
    gone = {f"test{number:03d}" for number in range(3, 8)}  # every fifth video is short
    restore(root, [video for video in VIDEOS if video.video_id not in gone])
    second = stage.publish()
    assert stage.embedded == []
    assert second.card.segments[0].removed == ((3, 7),)
    assert second.card.segments[0].name == first.card.segments[0].name
    kept = [name for name in ids(first) if name not in gone]
    assert ids(second) == kept
    assert [len(block) for block in second.blocks] == [3, 32]
    for row, name in enumerate(kept):
        old = ids(first).index(name)
        assert second.thumbnail(row) == first.thumbnail(old)
        assert np.array_equal(second.vectors_of([row]), first.vectors_of([old]))
    queries = torch.from_numpy(first.vectors_of(range(40)))  # type: ignore[arg-type]
    for name, best in zip(ids(first), second.searched(torch.device("cpu")).best(queries, 100), strict=True):
        assert sorted(row for row, _ in best) == list(range(35))
        assert name in gone or best[0][1] == pytest.approx(1, abs=1e-6)
    assert vectors(second).items() <= vectors(first).items()


def test_other_frames_are_embedded_and_another_row_of_the_manifest_is_copied(root: Path) -> None:
    stage = Stage(root)
    before = vectors(stage.publish())
    changed = list(VIDEOS)
    place = [video.video_id for video in VIDEOS].index("test005")
    changed[place] = dataclasses.replace(VIDEOS[place], captions=("a white square moves up",))  # drawn from the caption
    changed[place + 1] = dataclasses.replace(VIDEOS[place + 1], uri="moved/elsewhere.mp4")
    restore(root, changed)
    index = stage.publish()
    assert stage.embedded == ["test005"]
    assert sorted(ids(index)) == sorted(before)
    assert {name for name, row in vectors(index).items() if row != before[name]} == {"test005"}
    assert index.table()["uri"].to_pylist()[ids(index).index("test006")] == "moved/elsewhere.mp4"
    assert index.thumbnail(ids(index).index("test006"))[:2] == b"\xff\xd8"


def test_frames_that_moved_in_the_store_are_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(root)
    before = stage.publish()
    read: list[str] = []
    plain = plans.content_of

    def noting(stored: StoredVideo, row: Row) -> bytes:
        read.append(stored.video_id)
        return plain(stored, row)

    monkeypatch.setattr(plans, "content_of", noting)
    other = dataclasses.replace(VIDEOS[0], captions=("a white square moves up",) * 2)  # drawn from the caption
    restore(root, [other, *VIDEOS[1:]])  # a training video has other frames, so all are in another shard
    for times in (1, 0, 0):
        read.clear()
        assert vectors(stage.publish()) == vectors(before)
        assert stage.embedded == []
        assert read == ids(before) * times
    (stage.work / "moves.bin").unlink()
    assert vectors(stage.publish()) == vectors(before)
    assert read == ids(before)


def test_many_open_segments_keep_no_file_open(root: Path) -> None:
    stage = Stage(root, frame_vectors=True)
    stage.publish()
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = [indexes.read(stage.folder) for _ in range(20)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    shutil.rmtree(stage.folder)  # what is open is read to the end
    assert len({index.vectors_of([39]).tobytes() + index.thumbnail(39) for index in opened}) == 1


def test_a_run_that_ends_early_keeps_its_blocks(root: Path) -> None:
    stage = Stage(root)

    def two(blocks: Sequence[Block]) -> None:
        stage.alone(blocks[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.grow(two)
    (stage.work / "blocks" / ".half-1").mkdir()  # what a kill leaves
    assert not stage.folder.exists()
    index = stage.publish()
    assert stage.embedded == [f"test{number:03d}" for number in range(16, 40)]
    whole = Stage(root)
    shutil.rmtree(whole.folder)
    assert whole.publish().card.segments == index.card.segments


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_any_number_of_actors_gives_the_same_bytes(root: Path) -> None:
    stage = Stage(root, frame_vectors=True)
    alone = stage.grow().card
    shutil.rmtree(stage.folder)
    shutil.rmtree(stage.work)
    opener = AdapterOpener(root, TASK, tiny_world.params(root), stage.adapter, stage.encoding)
    ray = RaySettings(num_cpus=2, object_store_mib=128)
    assert stage.grow(lambda blocks: run_on_ray(opener, blocks, 2, ray, gpus=False)).card == alone
    assert stage.embedded == []


def test_a_reader_sees_one_version_or_the_other(root: Path) -> None:
    stage = Stage(root)
    stage.publish()
    few = {f"test{number:03d}" for number in range(10)}
    stores = [VIDEOS, [video for video in VIDEOS if video.split != "test" or video.video_id in few]]
    seen, done = set(), threading.Event()
    faults: list[Exception] = []

    def look() -> None:
        while not done.is_set():
            try:
                index = indexes.read(stage.folder)
                rows = range(index.count)
                seen.add((index.count, len(ids(index)), len({index.thumbnail(row)[:2] for row in rows})))
            except Exception as error:
                faults.append(error)
                return

    reader = threading.Thread(target=look)
    reader.start()
    held = indexes.read(stage.folder)
    for videos in (*stores[1:], *stores, *stores):
        restore(root, videos)
        stage.publish()
    done.set()
    reader.join()
    assert faults == []
    assert seen <= {(40, 40, 1), (10, 10, 1)}
    # More than a fifth of the first segment was gone, so its files were deleted. Whoever has it open reads on.
    assert not (stage.folder / "segments" / held.card.segments[0].name).exists()
    assert held.thumbnail(39)[:2] == b"\xff\xd8"
    assert held.searched(torch.device("cpu")).best(torch.from_numpy(held.vectors_of([39])), 1)[0][0][0] == 39


def test_a_damaged_or_missing_segment_is_one_sentence_whose_cure_cures(root: Path) -> None:
    stage = Stage(root)
    restore(root, VIDEOS[:-3])
    stage.publish()
    restore(root, VIDEOS)
    good = vectors(stage.publish())
    part = stage.folder / "segments" / read_index_card(stage.folder).segments[1].name
    content = bytearray((part / "vectors.npy").read_bytes())
    content[-3] ^= 1
    (part / "vectors.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"vectors\.npy: damaged: its content is not.*run python pipelines/index"):
        indexes.read(stage.folder)
    assert vectors(stage.publish()) == good
    assert stage.embedded == [video.video_id for video in VIDEOS[-3:]]
    shutil.rmtree(part)
    with pytest.raises(DataError, match=r"(rows\.arrow|vectors\.npy|thumbnails\.bin|frame.*): missing.*run python"):
        indexes.read(stage.folder)
    assert vectors(stage.publish()) == good
    assert len(stage.embedded) == 3


@pytest.mark.parametrize("limit", [300, 30_000])
def test_a_full_disk_leaves_the_index_that_was_there(root: Path, limit: int) -> None:
    stage = Stage(root)
    restore(root, VIDEOS[:20])
    before = stage.publish()
    version = (stage.folder / "index.json").read_bytes()
    restore(root, VIDEOS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(DataError, match=r"larger than this process may write.*the index is as it was"):
            stage.publish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (stage.folder / "index.json").read_bytes() == version
    assert vectors(indexes.read(stage.folder)) == vectors(before)
    assert not list(stage.folder.glob("segments/.*"))
    assert not list(stage.work.glob("blocks/.*"))
    assert stage.publish().count == 40


def test_frame_vectors_are_those_that_the_video_was_pooled_from(root: Path) -> None:
    index = Stage(root, frame_vectors=True).publish()
    plain = Stage(root).grow()
    store = FrameStore(Layout(root).frames(TASK))
    for row, stored in enumerate(store.read(ids(index))):
        found = index.frames(row)
        assert found is not None
        times, features = found
        assert tuple(times) == stored.timestamps_seconds
        assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
        mean = features.sum(axis=0)
        assert np.allclose(mean / np.linalg.norm(mean), index.vectors_of([row])[0], atol=1e-5)
    assert plain.frames(0) is None
    assert vectors(plain) == vectors(index)


def said(video: Video, **facts: Fact) -> Row:
    """A row of a video of which a table says something."""
    return Row(dataclasses.replace(video, facts=Facts(tuple(facts.items()))), b"")


def test_facts_are_columns_of_the_table(root: Path) -> None:
    stage = Stage(root)
    plain = stage.publish()
    part = plain.segments[0]
    rows = [said(VIDEOS[8 + number], year=2000 + number) for number in range(3)]
    chosen = segments.Part(part, np.array([0, 1, 2]), table_of(rows, [1.0, 1.0, 1.0]))
    card = segment_writer.write_parts(stage.folder / "segments", [chosen])
    added = segments.open_segment(stage.folder / "segments" / card.name, card, "")
    both = dataclasses.replace(plain.card, videos=43, segments=(*plain.card.segments, card))
    table = Index(both, (*plain.segments, added)).table()
    assert table.column_names == [*segments.SHOWN.names, "year"]
    assert table["year"].to_pylist() == [None] * 40 + [2000, 2001, 2002]
    assert table.schema.field("year").type == pa.int64()
    with pytest.raises(DataError, match=r"fact year: a column has values of different kinds; found 'int, str'"):
        table_of([rows[0], said(VIDEOS[9], year="old")], [1.0, 1.0])
    with pytest.raises(DataError, match=r"the name of a column is taken; found 'uri'"):
        table_of([said(VIDEOS[8], uri=1)], [1.0])


def test_a_fact_that_changed_is_taken_up_without_embedding(root: Path) -> None:
    stage = Stage(root)
    restore(root, [said(video, year=2000).video for video in VIDEOS])
    before = stage.publish()
    restore(root, [said(video, year=2001 if video.video_id == "test005" else 2000).video for video in VIDEOS])
    after = stage.publish()
    assert stage.embedded == []
    assert vectors(after) == vectors(before)
    facts = dict(zip(ids(after), after.table()["year"].to_pylist(), strict=True))
    assert [name for name, year in facts.items() if year == 2001] == ["test005"]


def test_a_column_that_becomes_text_is_text_although_an_older_part_has_numbers() -> None:
    numbers = table_of([said(VIDEOS[0], year=2020), said(VIDEOS[1])], [1.0, 1.0])
    texts = table_of([said(VIDEOS[0], year="2020b")], [1.0])
    joined = segments.join_tables([numbers.slice(1), texts])
    assert joined["year"].to_pylist() == [None, "2020b"]
    with pytest.raises(DataError, match="write one kind into the column"):
        segments.join_tables([numbers, texts])


def test_many_segments_are_joined_and_none_is_embedded_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "MOST_SEGMENTS", 2)
    stage = Stage(root)
    restore(root, VIDEOS[:-3])
    stage.publish()
    for left in (-2, -1, None):
        restore(root, VIDEOS[:left])
        index = stage.publish()
        assert len(stage.embedded) == 1
    assert [part.card.rows for part in index.segments] == [37, 3]
    assert sorted(path.name for path in (stage.folder / "segments").iterdir()) == sorted(
        part.name for part in index.card.segments
    )


def test_another_adapter_or_an_older_format_replaces_the_folder(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(root)
    first = stage.publish()
    trained_world.add_adapter(root, tiny_world.params(root), "vop", 1)
    other = Stage(root)
    other.adapter = Layout(root).adapter(TASK, "vop", 1)
    other.method = load_adapter(other.adapter, shared_backbone(tiny_world.params(root).backbone, root))
    other.recipe = dataclasses.replace(other.recipe, adapter_sha256=read_card(other.adapter).sha256)
    second = other.publish()
    assert len(other.embedded) == 40
    assert vectors(second) != vectors(first)
    shutil.copyfile(stage.adapter / "adapter.json", stage.folder / "adapter.json")
    with pytest.raises(DataError, match=r"made with another adapter than the one next to it.*index\.py --task tiny"):
        indexes.read(stage.folder)
    tree = json.loads((stage.folder / "index.json").read_text())
    (stage.folder / "index.json").write_text(json.dumps({**tree, "format": 1}))
    with pytest.raises(DataError, match=r"index of another format; found 1; expected 2; python pipelines/index\.py"):
        indexes.read(stage.folder)
    with caplog.at_level(logging.WARNING):
        assert vectors(stage.publish()) == vectors(first)
    assert "all videos are embedded: " in caplog.text
