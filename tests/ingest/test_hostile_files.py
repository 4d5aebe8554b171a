"""Files that lie about their length, change, have no end or cannot be looked at, and disks that are full."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from counted import remux, write_counted
from video_files import small_params, write_collection

from components.benchmarks.reader import read_manifest
from components.errors import DataError
from components.frames.store import FrameStore
from components.ingest import events, run
from components.ingest.decoders import DECODERS
from components.ingest.isolation import DecodeProcess, Outcome, Recipe
from components.ingest.progress import status
from components.ingest.publish import publish, write_store
from components.ingest.records import Shard
from components.ingest.run import read_settings
from components.ingest.shards import flat_ledger, make_shard, plan_shards
from components.ingest.state import WorkingState
from components.video import Video


@pytest.fixture(scope="module")
def auto() -> Iterator[DecodeProcess]:
    with DecodeProcess(Recipe(DECODERS.target("auto"), "uniform", 4, 32, 90), time_limit_seconds=2) as made:
        yield made


# Copies a video to another container on standard output.
TO_A_PIPE = """
import sys, av
with av.open(sys.argv[1]) as reads, av.open("pipe:1", "w", format=sys.argv[2]) as writes:
    stream = writes.add_stream_from_template(reads.streams.video[0])
    for packet in reads.demux(reads.streams.video[0]):
        if packet.size:
            packet.stream = stream
            writes.mux(packet)
"""


@pytest.mark.parametrize(
    ("codec", "ending"),
    [("libx264", "mkv"), ("libvpx-vp9", "webm"), ("mpeg4", "avi"), ("wmv2", "wmv"), ("flv1", "flv")],
)
def test_a_file_that_is_cut_off_is_compared_with_its_header(
    auto: DecodeProcess, tmp_path: Path, codec: str, ending: str
) -> None:
    whole = write_counted(tmp_path / f"whole.{ending}", codec=codec, options={"b": "2M"})
    content = whole.read_bytes()
    assert auto.decode(str(whole), None, None).reason is None
    for percent, reason in ((70, "truncated"), (88, "truncated"), (96, None)):
        (tmp_path / f"cut.{ending}").write_bytes(content[: len(content) * percent // 100])
        outcome = auto.decode(str(tmp_path / f"cut.{ending}"), None, None)
        assert outcome.reason == reason
        if reason:
            assert outcome.detail == f"{len(content) * percent // 100} of {len(content)} bytes"
    # Something after the end does not matter.
    (tmp_path / f"more.{ending}").write_bytes(content + bytes(1000))
    assert auto.decode(str(tmp_path / f"more.{ending}"), None, None).reason is None


@pytest.mark.parametrize("moof", ["frag_keyframe+empty_moov", "dash", "frag_keyframe+empty_moov+default_base_moof"])
def test_a_fragment_that_is_cut_off_is_truncated(auto: DecodeProcess, tmp_path: Path, moof: str) -> None:
    """Fragmented MP4 has no index of the whole. Its last box says where it ends."""
    whole = write_counted(tmp_path / "whole.mp4", options={"g": "25"}, muxer={"movflags": moof})
    content = whole.read_bytes()
    assert auto.decode(str(whole), None, None).reason is None
    end = content.rindex(b"moof") - 4
    middle = content.rindex(b"moof", 0, end) - 4
    # In the middle of a fragment, at its end, and a few bytes before the end of the last one.
    for length, reason in ((middle + (end - middle) // 4, "truncated"), (end, None), (len(content) - 9, None)):
        (tmp_path / "cut.mp4").write_bytes(content[:length])
        assert auto.decode(str(tmp_path / "cut.mp4"), None, None).reason == reason


@pytest.mark.parametrize("ending", ["mkv", "avi", "asf", "flv", "mpegts", "mpeg"])
def test_a_recording_that_states_no_length_is_taken_as_it_is(auto: DecodeProcess, tmp_path: Path, ending: str) -> None:
    """A program that writes into a pipe, or is killed, fills in no length. Some containers have no place for it."""
    codec = {"flv": "flv1", "mpegts": "mpeg2video", "mpeg": "mpeg2video"}.get(ending, "mpeg4")
    source = write_counted(tmp_path / f"source.{'flv' if ending == 'flv' else 'mkv'}", codec=codec, options={"b": "2M"})
    command = [sys.executable, "-c", TO_A_PIPE, str(source), {"mkv": "matroska"}.get(ending, ending)]
    content = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / f"cut.{ending}").write_bytes(content[: len(content) * 7 // 10])
    assert auto.decode(str(tmp_path / f"cut.{ending}"), None, None).reason is None


def test_hashing_has_the_limits_of_decoding(auto: DecodeProcess, tmp_path: Path) -> None:
    good, sparse = write_counted(tmp_path / "good.mp4"), tmp_path / "sparse.mp4"
    with sparse.open("wb") as stream:
        stream.truncate(1 << 42)
    (tmp_path / "endless.mp4").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "empty.mp4").touch()
    begin = time.monotonic()
    assert auto.content_hash(str(good)) == auto.decode(str(good), None, None).row["content_sha256"]
    for name in ("sparse", "endless", "pipe", "empty", "nothing"):
        assert auto.content_hash(str(tmp_path / f"{name}.mp4")) is None, name
    assert auto.decode(str(sparse), None, None).reason == "unreadable"
    assert auto.decode(str(tmp_path / "endless.mp4"), None, None) == Outcome("not_regular_file")
    assert time.monotonic() - begin < 120


def test_each_of_them_is_a_row_and_the_others_are_stored(auto: DecodeProcess, tmp_path: Path) -> None:
    write_counted(tmp_path / "good.mp4")
    with (tmp_path / "sparse.mp4").open("wb") as stream:
        stream.truncate(1 << 42)
    (tmp_path / "endless.mp4").symlink_to("/dev/zero")
    (tmp_path / "long-link.mp4").symlink_to("n" * 300)
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    write_counted(tmp_path / "strip.mp4", frames=4, width=1800, height=32)
    names = ["good", "sparse", "endless", "long-link", "loop", "strip"]
    videos = tuple(Video(name, str(tmp_path / f"{name}.mp4"), "test", ()) for name in names)
    params = small_params(tmp_path, "frames.time_limit_seconds=2")
    settings = read_settings(params.task("small"), params.frames)
    done = make_shard(Shard(0, videos), tmp_path, tmp_path / "out", settings, auto)
    assert [(row.video_id, row.reason, row.detail) for row in done.ledger] == [
        ("good", "", ""),
        ("sparse", "unreadable", "InvalidDataError"),
        ("endless", "not_regular_file", ""),
        ("long-link", "unreadable", "ENAMETOOLONG"),
        ("loop", "unreadable", "ELOOP"),
        ("strip", "extreme_shape", "1800 x 32"),
    ]
    assert done.is_complete


def test_names_of_reasons_do_not_mislead(auto: DecodeProcess, tmp_path: Path) -> None:
    write_counted(tmp_path / "good.mkv")
    (tmp_path / "list.mp4").write_bytes(b"ffconcat version 1.0\nfile good.mkv\n")
    assert auto.decode(str(tmp_path / "list.mp4"), None, None) == Outcome("unsupported", "container")
    (tmp_path / "text.mp4").write_text("no video")
    assert auto.decode(str(tmp_path / "text.mp4"), None, None) == Outcome("unreadable", "InvalidDataError")


WRONG = ["nan", "huge", "negative", "back", "length", "rate", "numbers", "beyond", "fewer"]


def test_whatever_a_decoder_returns_is_checked(tmp_path: Path) -> None:
    content = write_counted(tmp_path / "good.mp4").read_bytes()
    with DecodeProcess(Recipe("bad_decoders:decode", "uniform", 4, 32, 90), time_limit_seconds=10) as process:
        assert process.decode(str(tmp_path / "good.mp4"), None, None).reason is None
        for name in WRONG:
            path = tmp_path / f"times-{name}.mp4"
            path.write_bytes(content)
            outcome = process.decode(str(path), None, None)
            assert (name, outcome.reason) == (name, "wrong_answer")
            assert outcome.detail
        assert process.starts == 1


def test_decord_refuses_what_it_reads_wrongly(tmp_path: Path) -> None:
    b_frames = {"bf": "2", "preset": "fast", "sc_threshold": "0"}
    source = write_counted(tmp_path / "source.mp4", options=b_frames)
    edit_list = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    refused = {
        write_counted(tmp_path / "b.avi", codec="mpeg4", options={"bf": "2", "b": "2M"}): "container",
        write_counted(tmp_path / "b.ts", options=b_frames): "container",
        remux(source, tmp_path / "cut.mp4", shift=17, muxer=edit_list): "hidden packets",
        write_counted(tmp_path / "deep.mp4", codec="libx265", frames=20, pixels="yuv420p10le"): "pixel format",
    }
    with DecodeProcess(Recipe(DECODERS.target("decord"), "uniform", 4, 32, 90), time_limit_seconds=10) as process:
        for path, fault in refused.items():
            assert process.decode(str(path), None, None) == Outcome("unsupported", fault)
        # Narrow videos are no problem unless decord says so itself.
        assert process.decode(str(write_counted(tmp_path / "narrow.mp4", width=64)), None, None).reason is None
        assert process.decode(str(source), None, None).reason is None
        assert process.starts == 1


def test_torn_lines_of_the_event_log_are_left_out_and_counted(tmp_path: Path) -> None:
    task = tmp_path / "clips"
    events.write_event(task, events.Started.here(3, 0, {}, "state"))
    with (task / events.EVENTS).open("ab") as stream:
        stream.write(b'{"event": "decoding", "ti')  # the disk was full here
    events.write_event(task, events.Decoding(3))
    with (task / events.EVENTS).open("ab") as stream:
        stream.write(b'{"event": "no such event", "time": "", "seconds": 0}\n\xff\xfe\n[]\n')
    events.write_event(task, events.Finished(3, 3, "store"))
    log = events.read_events(task)
    assert [entry.name for entry in log.entries] == ["started", "decoding", "finished"]
    assert log.damaged == 4
    text = status(task)
    assert text.startswith("clips: finished; ")
    assert f"4 damaged lines of {task / events.EVENTS} are left out" in text


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkingState]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_collection(tmp_path / "data" / "small", train=1, val=1, test=1)
    params = small_params(tmp_path)
    settings = read_settings(params.task("small"), params.frames)
    yield WorkingState(tmp_path, read_manifest("small", params.task("small"), tmp_path), settings)
    run._kept_process.cache_clear()


def test_a_full_disk_is_one_error_of_a_shard(state: WorkingState, tmp_path: Path) -> None:
    """``/dev/full`` answers as a full disk does."""
    params = small_params(tmp_path)
    settings = read_settings(params.task("small"), params.frames)
    manifest = read_manifest("small", params.task("small"), tmp_path)
    (shard, *_) = plan_shards(manifest, settings.shard_videos)
    with state.locked():
        state.progress_file(shard.number).parent.mkdir()
        state.progress_file(shard.number).symlink_to("/dev/full")
        answer = run._shard_task(shard.to_row(), state, settings, reuses=False)
        assert "the disk is full; mend that, and the same command continues" in answer["error"]
        assert not list(state.store.iterdir())
        state.progress_file(shard.number).unlink()
        assert run._shard_task(shard.to_row(), state, settings, reuses=False)["error"] == ""
        assert state.made(shard) is not None


def test_a_full_disk_is_one_error_of_a_run(state: WorkingState, tmp_path: Path) -> None:
    state.task_folder.mkdir(parents=True)
    (state.task_folder / events.EVENTS).symlink_to("/dev/full")
    params = small_params(tmp_path)
    with pytest.raises(DataError, match=r"the disk is full; mend that, and the same command continues") as caught:
        run.ingest(tmp_path, "small", params.task("small"), params.frames, params.ray)
    assert "\n" not in str(caught.value)


def test_a_source_that_changes_after_its_shard_is_not_an_error(state: WorkingState, tmp_path: Path) -> None:
    """A recording goes on during the whole run. What was read of it was whole when it was read."""
    params = small_params(tmp_path)
    settings = read_settings(params.task("small"), params.frames)
    manifest = read_manifest("small", params.task("small"), tmp_path)
    shards = plan_shards(manifest, settings.shard_videos)
    with state.locked(), settings.process() as process:
        for shard in shards:
            state.finish(make_shard(shard, tmp_path, state.store, settings, process))
        with (tmp_path / "data" / "small" / "videos" / "video0.mp4").open("ab") as stream:
            stream.write(b"more")
        assert run._expect(state, shards[0]).ledger[0].reason == ""
        assert state.done(shards[0]) is None  # and the next run reads it again


def test_a_shard_that_decays_is_cured_as_its_error_says(state: WorkingState, tmp_path: Path) -> None:
    """A bit that a disk flips changes neither length nor time of the file, which the working state shares."""
    params = small_params(tmp_path)
    settings = read_settings(params.task("small"), params.frames)
    manifest = read_manifest("small", params.task("small"), tmp_path)
    target = tmp_path / "outputs" / "frames" / "small"

    def ingest(process: DecodeProcess) -> None:
        shards = plan_shards(manifest, settings.shard_videos)
        for shard in shards:
            if state.done(shard) is None:
                state.finish(make_shard(shard, tmp_path, state.store, settings, process))
        records = [done for shard in shards if (done := state.done(shard)) is not None]
        write_store(state.store, manifest, settings, records, flat_ledger(records, manifest))
        publish(state.store, target, None)

    with state.locked(), settings.process() as process:
        ingest(process)
        names = FrameStore(target).ids("train")
        whole = list(FrameStore(target).read(names))
        file = target / "shard-00000.parquet"
        before = file.stat()
        with file.open("r+b") as stream:
            stream.seek(before.st_size // 2)
            byte = stream.read(1)
            stream.seek(before.st_size // 2)
            stream.write(bytes([byte[0] ^ 1]))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        ingest(process)
        with pytest.raises(DataError, match=r"delete this file, and run .* again with --overwrite"):
            list(FrameStore(target).read(names))
        file.unlink()
        state.reset()  # what --overwrite does
        ingest(process)
        assert list(FrameStore(target).read(names)) == whole
