"""Rows of earlier runs are copied: the store equals that of a first run, and only new content is decoded."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
from video_files import small_params, tree_bytes, write_mp4, write_msrvtt

from components.benchmarks.reader import read_manifest
from components.ingest import reuse
from components.ingest.decoders import DECODERS
from components.ingest.publish import write_store
from components.ingest.records import Settings
from components.ingest.run import read_settings
from components.ingest.shards import flat_ledger, make_shard, plan_shards, with_windows
from components.ingest.state import WorkingState
from components.manifest import Manifest, Protocol
from components.params import Params
from components.video import Video

DECODERS.register("journal", "bad_decoders:journal")
DECODERS.register("bad", "bad_decoders:decode")

NAMES = [f"video{number}" for number in range(12)]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets a line per decoded video."""
    folder = tmp_path / "journal"
    folder.mkdir()
    monkeypatch.setenv("REELTUNE_TEST_JOURNAL", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    (folder / "journal").touch()
    return folder / "journal"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(NAMES):
        write_mp4(folder / f"{name}.mp4", frames=20 + number, hue=number)
    (folder / "video4.mp4").write_text("no video")
    return folder


@pytest.fixture
def root(tmp_path: Path, videos: Path) -> Path:
    folder = tmp_path / "root"
    shutil.copytree(videos, folder / "data" / "small" / "videos")
    return folder


def open_files() -> list[Path]:
    """What this process has open. A file that is closed meanwhile is left out."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(link.readlink())
    return found


def run(root: Path, manifest: Manifest, settings: Settings) -> Path:
    """Runs all of ingest without Ray, and returns the folder of the complete store."""
    state = WorkingState(root, manifest, settings)
    with state.locked(), settings.process() as process:
        shards = plan_shards(manifest, settings.shard_videos)
        todo = [shard for shard in shards if (done := state.done(shard)) is None or not done.is_complete]
        state.set_aside(todo)
        known = reuse.write_index(state.index, state.earlier(), settings.limits())
        rows = reuse.EarlierRows(state.index, settings.recipe.sampling) if known else contextlib.nullcontext()
        with rows as earlier:
            for shard in todo:
                state.finish(make_shard(shard, root, state.store, settings, process, earlier))
        assert not [path for path in open_files() if path.suffix in (".parquet", ".sqlite")]
        records = [done for shard in shards if (done := state.made(shard)) is not None]
        assert len(records) == len(shards)
        whole = with_windows(manifest, records)
        write_store(state.store, whole, settings, records, flat_ledger(records, whole))
    return state.store


def parts(root: Path, *overrides: str) -> tuple[Manifest, Settings]:
    params: Params = small_params(root, "frames.decoder=journal", *overrides)
    return read_manifest("small", params.task("small"), root), read_settings(params.task("small"), params.frames)


def decoded_since(journal: Path, before: int) -> list[str]:
    return sorted(journal.read_text().split()[before:])


def test_only_new_and_changed_content_is_decoded(root: Path, journal: Path, tmp_path: Path) -> None:
    folder = root / "data" / "small"
    write_msrvtt(folder, NAMES[1:8], NAMES[8:9], NAMES[9:])
    run(root, *parts(root))
    before = len(journal.read_text().split())
    assert before == 11

    # One video more at the start, so that all borders of shards move. One changed, one renamed, one copied and deleted.
    write_mp4(folder / "videos" / "video2.mp4", frames=40)
    os.rename(folder / "videos" / "video5.mp4", folder / "videos" / "other name.mp4")
    shutil.copyfile(folder / "videos" / "video6.mp4", folder / "videos" / "copy.mp4")
    (folder / "videos" / "video6.mp4").unlink()
    write_msrvtt(
        folder, ["video0", "video1", "video2", "video4", "other name", "copy", "video7"], NAMES[8:9], NAMES[9:]
    )
    store = run(root, *parts(root))
    assert decoded_since(journal, before) == ["video0", "video2"]

    first = tmp_path / "first"
    shutil.copytree(root / "data", first / "data")
    assert tree_bytes(store) == tree_bytes(run(first, *parts(first)))


def test_a_changed_file_costs_itself_not_its_shard(root: Path, journal: Path) -> None:
    folder = root / "data" / "small"
    write_msrvtt(folder, NAMES[:8], NAMES[8:9], NAMES[9:])
    wide = ("frames.shard_videos=8",)
    run(root, *parts(root, *wide))
    before = len(journal.read_text().split())
    os.utime(folder / "videos" / "video1.mp4")  # the same content at another time
    write_mp4(folder / "videos" / "video3.mp4", frames=33)
    store = run(root, *parts(root, *wide))
    assert decoded_since(journal, before) == ["video3"]
    whole = tree_bytes(store)
    shutil.rmtree(root / ".reeltune")
    assert tree_bytes(run(root, *parts(root, *wide))) == whole


def test_other_shards_need_no_decoding_other_pixels_do(root: Path, journal: Path) -> None:
    write_msrvtt(root / "data" / "small", NAMES[:8], NAMES[8:9], NAMES[9:])
    run(root, *parts(root))
    before = len(journal.read_text().split())
    run(root, *parts(root, "frames.shard_videos=5", "frames.row_group_videos=3"))
    assert decoded_since(journal, before) == []
    run(root, *parts(root, "frames.quality=80"))
    assert len(decoded_since(journal, before)) == 12


PROTOCOL = Protocol("table", "v", "c", "v")


def segments(*uris: str) -> Manifest:
    spans = [(uri, start, end) for uri in uris for start, end in ((None, None), (0.0, 0.5), (0.5, None))]
    videos = [
        Video(f"v{k}", uri, split, ("c",), start, end)
        for split in ("train", "val", "test")
        for k, (uri, start, end) in enumerate(spans)
    ]
    return Manifest("small", PROTOCOL, tuple(videos))


def test_segments_of_one_file_are_kept_apart(root: Path, journal: Path) -> None:
    _, settings = _settings(root)
    run(root, segments("data/small/videos/video1.mp4"), settings)
    before = len(journal.read_text().split())
    other = root / "data" / "small" / "videos" / "same.mp4"
    os.rename(root / "data" / "small" / "videos" / "video1.mp4", other)
    store = tree_bytes(run(root, segments("data/small/videos/same.mp4"), settings))
    assert decoded_since(journal, before) == []
    shutil.rmtree(root / ".reeltune")
    assert tree_bytes(run(root, segments("data/small/videos/same.mp4"), settings)) == store


def test_a_rule_that_draws_by_name_takes_rows_of_that_name(root: Path, journal: Path) -> None:
    _, settings = _settings(root, "frames.sampling=segment_random")
    run(root, segments("data/small/videos/video1.mp4"), settings)
    before = len(journal.read_text().split())
    videos = root / "data" / "small" / "videos"
    (videos / "sub").mkdir()
    shutil.copyfile(videos / "video1.mp4", videos / "sub" / "video1.mp4")
    run(root, segments("data/small/videos/sub/video1.mp4"), settings)
    assert decoded_since(journal, before) == []
    shutil.copyfile(videos / "video1.mp4", videos / "another name.mp4")
    run(root, segments("data/small/videos/another name.mp4"), settings)
    assert len(decoded_since(journal, before)) > 0


def _settings(root: Path, *overrides: str) -> tuple[Params, Settings]:
    params = small_params(root, "frames.decoder=journal", *overrides)
    return params, read_settings(params.task("small"), params.frames)


def tried(store: Path) -> int:
    records = (store.parent / "done").glob("[!.]*.json")
    return sum(json.loads(record.read_text())["tried"] for record in records)


def test_a_failure_of_the_file_is_tried_again_only_under_other_limits(root: Path, journal: Path) -> None:
    videos = root / "data" / "small" / "videos"
    for name in ("spin", "hang"):
        shutil.copyfile(videos / "video1.mp4", videos / f"{name}.mp4")
        (videos / f"{name}.mp4").open("ab").write(name.encode())
    names = ("video4.mp4", "spin.mp4", "video1.mp4")

    def run_with(limit: float, shard_videos: int, *names: str) -> int:
        uris = [f"data/small/videos/{name}" for name in names]
        manifest = Manifest("small", PROTOCOL, tuple(Video(uri[18:], uri, "test", ()) for uri in uris))
        overrides = ("frames.decoder=bad", f"frames.time_limit_seconds={limit}", f"frames.shard_videos={shard_videos}")
        return tried(run(root, manifest, _settings(root, *overrides)[1]))

    assert run_with(0.5, 3, *names) == 3
    assert run_with(0.5, 2, *names) == 0
    assert run_with(0.4, 2, *names) == 1
    write_mp4(videos / "video4.mp4")
    assert run_with(0.4, 2, *names) == 1
    # A decoder that sleeps may wait for a network. So it is tried in every run.
    assert [run_with(0.4, 2, "hang.mp4", "video1.mp4") for _ in range(2)] == [1, 1]
