"""A state of the machine is no property of a video: it is tried again at once, alone, and in the next run."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from counted import write_counted
from test_reuse import run
from video_files import small_params, tree_bytes

from components.frames.store import FrameStore
from components.ingest.decoders import DECODERS
from components.ingest.isolation import DecodeProcess, Outcome, Recipe
from components.ingest.limits import WALL_FACTOR, processor_time
from components.ingest.records import Limits, Settings, is_transient
from components.ingest.run import read_settings
from components.ingest.turns import Turns
from components.manifest import Manifest, Protocol
from components.video import Video

DECODERS.register("bad", "bad_decoders:decode")
LIMIT_SECONDS = 0.5


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_counted(tmp_path_factory.mktemp("videos") / "plain.mp4", frames=20)


@pytest.fixture(scope="module")
def process() -> Iterator[DecodeProcess]:
    with DecodeProcess(Recipe("bad_decoders:decode", "uniform", 4, 32, 90), LIMIT_SECONDS) as made:
        yield made


def named(video: Path, folder: Path, name: str, marker: str = "") -> str:
    """Copies the video to a name that makes the decoder misbehave."""
    shutil.copyfile(video, folder / f"{name}.mp4")
    if marker:
        (folder / f"{name}.marker").write_text(marker)
    return str(folder / f"{name}.mp4")


def test_a_killed_child_costs_nothing(process: DecodeProcess, video: Path, tmp_path: Path) -> None:
    whole = process.decode(str(video), None, None)
    starts = process.starts
    found = process.decode(named(video, tmp_path, "killed", "once"), None, None)
    assert (found.reason, process.starts) == (None, starts + 1)
    assert found == whole
    assert process.decode(named(video, tmp_path, "killed", "always"), None, None) == Outcome("crashed", "SIGKILL")
    assert process.starts == starts + 2


def test_a_child_that_gets_no_processor_is_waited_for(process: DecodeProcess, video: Path, tmp_path: Path) -> None:
    """A stopped process neither computes nor sleeps, as one that waits for a processor or a disk."""

    def continue_later() -> None:
        time.sleep(3 * LIMIT_SECONDS)
        for child in psutil.Process().children():
            if child.status() == psutil.STATUS_STOPPED:
                os.kill(child.pid, signal.SIGCONT)

    # Started before the clock, so that the start of a process does not count.
    assert process.decode(str(video), None, None).reason is None
    starts = process.starts
    helper = threading.Thread(target=continue_later)
    helper.start()
    begin = time.monotonic()
    assert process.decode(named(video, tmp_path, "stopped"), None, None).reason is None
    assert time.monotonic() - begin > 2 * LIMIT_SECONDS
    helper.join()
    assert process.starts == starts


def test_computing_and_sleeping_are_limited_and_named(process: DecodeProcess, video: Path, tmp_path: Path) -> None:
    assert process.decode(named(video, tmp_path, "spin"), None, None).detail == processor_time(LIMIT_SECONDS)
    assert process.decode(named(video, tmp_path, "hang"), None, None) == Outcome("timeout", "0.5 s asleep")


def test_what_the_next_run_tries_again() -> None:
    limits = Limits(30.0, 4096)
    again = [
        ("timeout", "30 s asleep"),
        ("timeout", f"{WALL_FACTOR * 30:g} s of wall clock"),
        ("timeout", "30 s"),  # of release 0.1, which counted wall clock
        ("out_of_memory", "MemoryError"),
        ("crashed", "SIGKILL"),
        ("crashed", "SIGTERM"),
        ("crashed", "SIGBUS"),  # the file or a library became shorter
        ("changed_while_read", ""),
        ("not_fetched", "OSError"),
    ]
    never = [
        ("", ""),
        ("timeout", "30 s of processor time"),
        ("out_of_memory", "4096 MiB"),
        ("crashed", "SIGSEGV"),
        ("crashed", "SIGABRT"),
        ("crashed", "exit status 7"),
        ("damaged", "12 of the 12 frames"),
        ("unreadable", ""),
    ]
    assert [row for row in [*again, *never] if is_transient(*row, limits)] == again


PROTOCOL = Protocol("table", "v", "c", "v")


def parts(root: Path, *names: str) -> tuple[Manifest, Settings]:
    params = small_params(root, "frames.decoder=bad", f"frames.time_limit_seconds={LIMIT_SECONDS}")
    videos = tuple(Video(name, f"data/{name}.mp4", "test", ()) for name in names)
    return Manifest("small", PROTOCOL, videos), read_settings(params.task("small"), params.frames)


def test_the_next_run_tries_again_and_the_store_is_that_of_an_undisturbed_one(video: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "data").mkdir(parents=True)
    names = ("good", "killed", "growing", "last")
    for name in names:
        named(video, root / "data", name, "always" if name in ("killed", "growing") else "")
    manifest, settings = parts(root, *names)
    store = run(root, manifest, settings)
    fates = {row["video_id"]: (row["reason"], row["detail"]) for row in FrameStore(store).ledger().to_pylist()}
    assert fates == {
        "good": ("", ""),
        "killed": ("crashed", "SIGKILL"),
        "growing": ("changed_while_read", ""),
        "last": ("", ""),
    }
    for name in ("killed", "growing"):
        (root / "data" / f"{name}.marker").unlink()
    again = tree_bytes(run(root, manifest, settings))
    assert FrameStore(store).card.failed == {}
    shutil.rmtree(root / ".reeltune")
    assert tree_bytes(run(root, manifest, settings)) == again


def test_a_turn_alone_has_no_other_next_to_it() -> None:
    busy: list[int] = []
    most = {"together": 0, "alone": 0}

    def work(kind: str) -> None:
        turns = Turns(patience_seconds=60)
        for _ in range(5):
            with turns.alone() if kind == "alone" else turns.together():
                busy.append(1)
                time.sleep(0.01)
                most[kind] = max(most[kind], len(busy))
                busy.pop()
        turns.close()

    threads = [threading.Thread(target=work, args=(kind,)) for kind in ("together", "together", "together", "alone")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert most["together"] > 1
    assert most["alone"] == 1


def test_a_turn_that_never_comes_is_not_waited_for_for_ever() -> None:
    stopped, other = Turns(patience_seconds=60), Turns(patience_seconds=0.1)
    with stopped.alone(), other.together():
        pass
    with stopped.together(), other.alone():
        pass
    stopped.close()
    other.close()
