"""The working state: which shards count as finished, and when a store is not published."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from video_files import small_params, write_collection, write_mp4

from components.benchmarks.reader import read_manifest
from components.errors import DataError
from components.frames import schema
from components.ingest.publish import check_failures
from components.ingest.records import LedgerRow, Settings, Shard
from components.ingest.run import read_settings
from components.ingest.shards import make_shard, plan_shards
from components.ingest.state import WorkingState
from components.manifest import Manifest


@pytest.fixture
def parts(tmp_path: Path) -> tuple[WorkingState, Manifest, Settings, list[Shard]]:
    """The state of a collection with all its shards finished: two of train, one of val, and one of test."""
    write_collection(tmp_path / "data" / "small", train=3, val=1, test=1)
    params = small_params(tmp_path)
    manifest = read_manifest("small", params.task("small"), tmp_path)
    settings = read_settings(params.task("small"), params.frames)
    state = WorkingState(tmp_path, manifest, settings)
    shards = plan_shards(manifest, settings.shard_videos)
    with state.locked(), settings.process() as process:
        for shard in shards:
            state.finish(make_shard(shard, tmp_path, state.store, settings, process))
        assert process.starts == 1
    return state, manifest, settings, shards


def finished(state: WorkingState, shards: list[Shard]) -> list[int]:
    return [shard.number for shard in shards if state.done(shard) is not None]


def test_finished_shards_stay_finished(parts: tuple[WorkingState, Manifest, Settings, list[Shard]]) -> None:
    state, manifest, settings, shards = parts
    assert finished(state, shards) == [0, 1, 2, 3]
    assert finished(WorkingState(state.root, manifest, settings), shards) == [0, 1, 2, 3]


def test_records_keep_the_format_of_release_0_1(
    parts: tuple[WorkingState, Manifest, Settings, list[Shard]],
) -> None:
    record = json.loads((parts[0].folder / "done" / "00000.json").read_text())
    keys = ["number", "sha256", "bytes", "mtime_ns", "ledger", "origins", "tried", "limits", "seconds"]
    assert list(record) == keys
    assert [list(row) for row in record["ledger"]] == [schema.LEDGER_SCHEMA.names] * 2
    assert list(record["origins"][0]) == ["uri", "start_seconds", "end_seconds", "identity", "sha256"]
    assert record["limits"] == {"time_limit_seconds": 30.0, "memory_limit_mib": 4096}


def test_changed_new_and_removed_videos_undo_their_shards(
    parts: tuple[WorkingState, Manifest, Settings, list[Shard]], tmp_path: Path
) -> None:
    state, _, settings, shards = parts
    videos = tmp_path / "data" / "small" / "videos"
    write_mp4(videos / "video2.mp4", frames=40)
    (videos / "video3.mp4").unlink()
    assert finished(state, shards) == [0, 3]
    with settings.process() as process:
        state.finish(make_shard(shards[2], tmp_path, state.store, settings, process))
    assert finished(state, shards) == [0, 2, 3]
    write_mp4(videos / "video3.mp4")
    assert finished(state, shards) == [0, 3]


def test_shards_that_are_not_what_was_written_do_not_count(
    parts: tuple[WorkingState, Manifest, Settings, list[Shard]],
) -> None:
    state, _, _, shards = parts
    damaged = state.store / schema.shard_name(0)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    (state.store / schema.shard_name(1)).unlink()
    (state.folder / "done" / "00002.json").unlink()
    (state.folder / "done" / "00003.json").write_text("{half")
    assert finished(state, shards) == []


def test_other_settings_start_again_and_drop_the_old(
    parts: tuple[WorkingState, Manifest, Settings, list[Shard]],
) -> None:
    state, manifest, settings, shards = parts
    for changed in (
        dataclasses.replace(settings, shard_videos=3),
        dataclasses.replace(settings, time_limit_seconds=1.0),
        dataclasses.replace(settings, row_group_videos=1),
    ):
        assert finished(WorkingState(state.root, manifest, changed), shards) == []
    finer = dataclasses.replace(settings, recipe=dataclasses.replace(settings.recipe, quality=80))
    other = WorkingState(state.root, manifest, finer)
    with other.locked():
        other.drop_others()
    assert other.store.is_dir()
    assert finished(state, shards) == []


def ledger(*fates: tuple[str, str]) -> list[LedgerRow]:
    return [
        LedgerRow(
            *(f"v{k}", split, schema.FAILED if reason else schema.DECODED, reason, "", "decord", None),
            frames=0 if reason else 4,
            shard=0,
            row=None if reason else k,
        )
        for k, (split, reason) in enumerate(fates)
    ]


def test_too_many_failures_stop_the_stage() -> None:
    where = Path("state/store/ledger.parquet")
    good = [("train", ""), ("train", ""), ("val", ""), ("test", "")]
    check_failures("t", ledger(*good, ("train", "timeout")), 0.2, where)
    with pytest.raises(DataError, match=r"too many videos failed.*\n.*timeout 1 .*v4.*found '20\.0%'.*at most 19\.0%"):
        check_failures("t", ledger(*good, ("train", "timeout")), 0.19, where)
