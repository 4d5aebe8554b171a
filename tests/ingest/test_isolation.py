"""Decoding in a child process: the frames that decord returns, and that a file costs nothing but itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from video_files import SHARED, grey_of, write_audio_mp4, write_frames, write_mp4

from components.errors import DataError
from components.frames import schema
from components.frames.jpeg import decode_frames
from components.ingest import pipe
from components.ingest.isolation import DecodeProcess, Outcome, Recipe

DECORD = "components.ingest.decoders.decord:decode"


def recipe(decoder: str = DECORD, sampling: str = "segment_center", frames: int = 4, size: int = 48) -> Recipe:
    return Recipe(decoder, sampling, frames, size, quality=95)


@pytest.fixture(scope="module")
def process() -> Iterator[DecodeProcess]:
    with DecodeProcess(recipe(), time_limit_seconds=60) as made:
        yield made


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "plain.mp4"
    write_mp4(path, frames=24, width=64, height=48, fps=12)
    return path


def brightness(outcome: Outcome) -> list[int]:
    """Returns the mean brightness of the left third of each frame."""
    frames = decode_frames(outcome.row["frames"])
    return [round(float(frame[:, : frame.shape[1] // 3].mean())) for frame in frames]


@pytest.mark.parametrize(("sampling", "indices"), [("uniform", [0, 7, 15, 23]), ("segment_center", [2, 8, 14, 20])])
def test_the_frames_of_the_rule_come_back(video: Path, sampling: str, indices: list[int]) -> None:
    with DecodeProcess(recipe(sampling=sampling), 60) as process:
        outcome = process.decode(str(video), None, None)
    assert outcome.reason is None
    row = outcome.row
    assert row["frame_indices"] == indices
    assert np.allclose(row["timestamps_seconds"], [index / 12 for index in indices], atol=1e-3)
    assert (row["width"], row["height"], row["source_width"], row["source_height"]) == (64, 48, 64, 48)
    assert (row["source_frames"], row["fps"], row["duration_seconds"]) == (24, 12.0, 2.0)
    assert row["decoder"].startswith("decord")
    assert np.allclose(brightness(outcome), [grey_of(index) for index in indices], atol=4)


def test_only_the_segment_is_sampled(process: DecodeProcess, video: Path) -> None:
    outcome = process.decode(str(video), 0.5, 1.0)
    assert outcome.row["frame_indices"] == [6, 7, 9, 10]
    assert outcome.row["timestamps_seconds"][0] == 0.5
    assert process.decode(str(video), 1.75, None).row["frame_indices"] == [21, 22, 23]
    assert process.decode(str(video), 30.0, 40.0).reason == "empty_segment"


def test_a_segment_beyond_the_file_is_refused_and_says_so(process: DecodeProcess, video: Path) -> None:
    assert process.decode(str(video), 1.0, 3.0).reason is None  # annotations round up to whole seconds
    outcome = process.decode(str(video), 1.0, 3.01)
    assert outcome.reason == "outside_file"
    assert outcome.detail == "the segment ends at 3.01 s, the file at 2 s"


def test_all_frames_of_a_short_video_are_taken(process: DecodeProcess, tmp_path: Path) -> None:
    write_mp4(tmp_path / "one.mp4", frames=1)
    assert process.decode(str(tmp_path / "one.mp4"), None, None).row["frame_indices"] == [0]


def test_the_short_side_is_fitted_and_nothing_cut_off(tmp_path: Path, video: Path) -> None:
    write_mp4(tmp_path / "tall.mp4", width=64, height=150)
    with DecodeProcess(recipe(size=32), 60) as process:
        assert decode_frames(process.decode(str(video), None, None).row["frames"]).shape == (4, 32, 42, 3)
        assert decode_frames(process.decode(str(tmp_path / "tall.mp4"), None, None).row["frames"]).shape == (
            4,
            75,
            32,
            3,
        )


def test_every_bad_file_has_its_reason_and_costs_nothing_else(
    process: DecodeProcess, video: Path, tmp_path: Path
) -> None:
    whole = video.read_bytes()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("<html>404</html>")
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    write_audio_mp4(tmp_path / "audio.mp4")
    expected = {
        "empty": ("empty_file", ""),
        "text": ("unreadable", "InvalidDataError"),
        "cut": ("unreadable", "InvalidDataError"),
        "noise": ("unreadable", "InvalidDataError"),
        "folder": ("not_regular_file", ""),
        "pipe": ("not_regular_file", ""),
        "dangling": ("missing_file", ""),
        "nothing": ("missing_file", ""),
        "text/below": ("missing_file", ""),
        "x" * 300: ("unreadable", "ENAMETOOLONG"),
        "audio.mp4": ("no_video_stream", ""),
    }
    starts = process.starts
    for name, (reason, detail) in expected.items():
        assert process.decode(str(tmp_path / name), None, None) == Outcome(reason, detail), name
        assert reason in schema.REASONS
    assert process.decode(str(video), None, None).reason is None
    assert process.starts == max(starts, 1)


@pytest.mark.parametrize(
    "name", ["na\u00efve \u732b.mp4", "quote'\" $(x) `y`;&.mp4", "-n.mp4", "line\nend.mp4", "%s%n.mp4"]
)
def test_hostile_names_are_names(process: DecodeProcess, video: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(video.read_bytes())
    assert process.decode(str(tmp_path / name), None, None).reason is None


def test_a_name_that_is_not_utf8(process: DecodeProcess, video: Path, tmp_path: Path) -> None:
    path = os.fsdecode(bytes(tmp_path) + b"/\xff.mp4")
    Path(path).write_bytes(video.read_bytes())
    # decord accepts UTF-8 only, which must be a reason and not a crash.
    assert process.decode(path, None, None).reason == "unreadable"


def test_hangs_and_crashes_cost_their_own_video(video: Path, tmp_path: Path) -> None:
    expected = {
        "hang": ("timeout", "2 s asleep"),
        "abort": ("crashed", "SIGABRT"),
        "good1": (None, ""),
        "segfault": ("crashed", "SIGSEGV"),
        "leave": ("crashed", "exit status 7"),
        "raise": ("decode_error", "ZeroDivisionError"),
        "good2": (None, ""),
    }
    before = psutil.Process().children()
    with DecodeProcess(recipe("bad_decoders:decode"), time_limit_seconds=2) as process:
        for name, (reason, detail) in expected.items():
            (tmp_path / f"{name}.mp4").write_bytes(video.read_bytes())
            outcome = process.decode(str(tmp_path / f"{name}.mp4"), None, None)
            assert (outcome.reason, outcome.detail) == (reason, detail)
        assert process.starts == 9  # four of them were tried twice
    assert psutil.Process().children() == before


def test_a_decoder_that_cannot_be_imported_is_one_error() -> None:
    with (
        DecodeProcess(recipe("no_such_module:decode"), 5) as process,
        pytest.raises(DataError, match=r"decoder no_such_module:decode: decoder cannot be loaded.*ModuleNotFound"),
    ):
        process.decode("any", None, None)


def test_the_child_loads_neither_torch_nor_ray_nor_arrow() -> None:
    modules = "components.ingest.child, components.ingest.decoders.decord, components.ingest.decoders.auto"
    code = f"import sys, {modules}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"import json; {code}"], capture_output=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"torch", "ray", "pyarrow", "pandas", "mlflow", "pydantic"}


def test_the_child_dies_with_a_killed_supervisor(video: Path, tmp_path: Path) -> None:
    hanging = tmp_path / "hang.mp4"
    hanging.write_bytes(video.read_bytes())
    code = (
        "from components.ingest.isolation import *\n"
        "process = DecodeProcess(Recipe('bad_decoders:decode', 'uniform', 4, 32, 90), 600)\n"
        f"process.decode({str(video)!r}, None, None)\n"
        "print(process._child.pid, flush=True)\n"
        f"process.decode({str(hanging)!r}, None, None)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as supervisor:
        assert supervisor.stdout is not None
        child = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.send_signal(signal.SIGKILL)
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_messages_survive_being_cut_and_refuse_nonsense() -> None:
    reads, writes = os.pipe()
    blobs = [b"", b"a" * 300_000, b"\x00\xff"]
    sender = threading.Thread(target=pipe.send, args=(writes, {"k": [1, None, "\udcff"]}, blobs))
    sender.start()
    assert pipe.receive(reads) == ({"k": [1, None, "\udcff"]}, blobs)
    sender.join()
    os.write(writes, b"\xff" * 64)
    with pytest.raises(pipe.BrokenMessageError):
        pipe.receive(reads)
    os.close(reads)
    reads, writes = os.pipe()
    os.write(writes, pipe.HEADER.pack(2) + b"[]")
    with pytest.raises(pipe.BrokenMessageError):
        pipe.receive(reads)
    with pytest.raises(TimeoutError):
        pipe.receive(reads, deadline=time.monotonic())
    os.close(writes)
    with pytest.raises(EOFError):
        pipe.receive(reads)
    os.close(reads)


@pytest.mark.skipif(not (SHARED / "clips").is_dir(), reason="the real clips are missing")
def test_real_clips() -> None:
    clips = sorted((SHARED / "clips").glob("*.mp4"))
    assert len(clips) == 5
    with DecodeProcess(recipe(frames=12, size=224), 60) as process:
        for clip in clips:
            row = process.decode(str(clip), None, None).row
            assert decode_frames(row["frames"]).shape == (12, 224, 298, 3)
            with av.open(str(clip)) as container:
                times = [frame.time for frame in container.decode(video=0)]
            assert row["source_frames"] == len(times)
            start = times[0]
            wanted = [times[index] - start for index in row["frame_indices"]]
            assert np.allclose(row["timestamps_seconds"], wanted, atol=0.01)


def test_adaptive_sampling_sees_an_event_that_even_spacing_misses(tmp_path: Path) -> None:
    # 20 s at 10 fps without motion. For three frames, between the centres of two segments, a square appears.
    path = tmp_path / "event.mp4"
    picture = np.full((64, 96, 3), 60, np.uint8)
    shown = picture.copy()
    shown[16:48, 32:64] = (220, 40, 40)
    write_frames(path, [shown if 30 <= index < 33 else picture for index in range(200)], fps=10)
    found = {}
    for sampling in ("segment_center", "adaptive"):
        with DecodeProcess(recipe(sampling=sampling, frames=6), time_limit_seconds=30) as process:
            row = process.decode(str(path), None, None).row
            assert process.decode(str(path), None, None).row == row
            assert process.decode(str(path), 10.0, None).row["frame_indices"][0] >= 100
        assert len(row["frame_indices"]) == 6
        found[sampling] = bool({30, 31, 32} & set(row["frame_indices"]))
    assert found == {"segment_center": False, "adaptive": True}
