"""The whole of ingest on a local Ray cluster: the same bytes for any number of workers, also after a kill."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from video_files import SMALL, small_params, tree_bytes, write_collection, write_mp4, write_msrvtt

from components.errors import ConfigError, DataError
from components.frames import schema
from components.frames.jpeg import decode_frames
from components.frames.store import FrameStore
from components.ingest.decoders import DECODERS
from components.ingest.run import Summary, ingest
from components.layout import Layout
from components.params import Params

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
DECODERS.register("bad", "bad_decoders:decode")
DECODERS.register("journal", "bad_decoders:journal")

# The same, for a process that can be killed.
DRIVER = """
import sys
from pathlib import Path
from components.ingest.decoders import DECODERS
from components.ingest.run import ingest
from components.params import load_params
DECODERS.register("journal", "bad_decoders:journal")
root = Path(sys.argv[1])
params = load_params(root / "params.yaml", sys.argv[2:])
print(ingest(root, "small", params.task("small"), params.frames, params.ray).text())
"""


@pytest.fixture(autouse=True)
def _importable_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with 14 videos in 7 shards. Some videos are missing or broken."""
    root = tmp_path_factory.mktemp("project")
    write_collection(root / "data" / "small")
    videos = root / "data" / "small" / "videos"
    (videos / "video2.mp4").write_text("not a video")
    (videos / "video3.mp4").unlink()
    (videos / "video11.mp4").write_bytes((videos / "video11.mp4").read_bytes()[:300])
    return root


@pytest.fixture
def root(collection: Path, tmp_path: Path) -> Path:
    """A new root with the same collection."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "small").symlink_to(collection / "data" / "small")
    return tmp_path


def ingest_small(root: Path, params: Params) -> Summary:
    return ingest(root, "small", params.task("small"), params.frames, params.ray)


def overrides(root: Path, decoder: str) -> list[str]:
    (root / "params.yaml").write_bytes((HERE.parents[1] / "params.yaml").read_bytes())
    return [*SMALL, "frames.max_failed_share=0.5", f"frames.decoder={decoder}"]


@pytest.fixture(scope="module")
def undisturbed(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """The root of an ingest with four workers, and what it printed."""
    os.environ["REELTUNE_TEST_JOURNAL"] = str(tmp_path_factory.mktemp("journal"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        params = small_params(collection, *overrides(collection, "journal"), "ray.num_cpus=4")
        yield collection, ingest_small(collection, params).text().splitlines()
    del os.environ["REELTUNE_TEST_JOURNAL"]


def test_every_video_is_accounted_for(undisturbed: tuple[Path, list[str]]) -> None:
    root, lines = undisturbed
    store = FrameStore(Layout(root).frames("small"))
    fates = {row["video_id"]: (row["reason"], row["detail"]) for row in store.ledger().to_pylist()}
    assert len(fates) == 14
    assert {name: fate for name, fate in fates.items() if fate[0]} == {
        "video2": ("unreadable", "InvalidDataError"),
        "video3": ("missing_file", ""),
        "video11": ("unreadable", "InvalidDataError"),
    }
    assert store.ids("test") == ["video10", "video12", "video13"]
    for video in store.read(store.ids("all")):
        assert decode_frames(video.frames).shape == (4, 32, 42, 3)
        assert video.source_frames == 20 + int(video.video_id.removeprefix("video"))
    assert lines[0].startswith("small: 11 of 14 videos decoded, 3 failed; ")
    assert lines[1].startswith("  this run: 14 videos in ")
    assert lines[2:] == [
        "  missing_file 1 (no file under the manifest's uri): video3",
        "  unreadable 2 (not a video, or damaged so that the decoder cannot open it): video2, video11",
    ]


def test_one_worker_makes_the_same_bytes(undisturbed: tuple[Path, list[str]], root: Path) -> None:
    ingest_small(root, small_params(root, *overrides(root, "journal"), "ray.num_cpus=1"))
    assert tree_bytes(Layout(root).frames("small")) == tree_bytes(Layout(undisturbed[0]).frames("small"))


def test_a_killed_ingest_continues_where_it_was(
    undisturbed: tuple[Path, list[str]], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal"
    journal.mkdir()
    monkeypatch.setenv("REELTUNE_TEST_JOURNAL", str(journal))
    settings = [*overrides(root, "journal"), "ray.num_cpus=2"]
    command = [sys.executable, "-c", DRIVER, str(root), *settings]
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log)
        # A decoder kills the driver at the eighth call. By then some shards are complete, and at least one is not.
        (journal / "kill.new").write_text(f"{driver.pid} 8")
        (journal / "kill.new").rename(journal / "kill")
        assert driver.wait(timeout=120) == -9, (tmp_path / "log").read_text()
    assert not Layout(root).frames("small").exists()
    state = next(path for path in (root / ".reeltune" / "ingest" / "small").iterdir() if path.is_dir())
    finished = sorted(int(path.stem) for path in (state / "done").glob("[!.]*.json"))
    assert 1 <= len(finished) < 7
    (state / "store" / ".shard-00006.parquet.elsewhere-1.tmp").write_bytes(b"half")
    before = (journal / "journal").read_text().split()

    done = subprocess.run(command, capture_output=True, text=True, check=True)
    again = (journal / "journal").read_text().split()[len(before) :]
    kept = {f"video{2 * number + k}" for number in finished for k in (0, 1)}
    assert not kept & set(again)
    # After the driver died, its worker may still have finished the shard in progress.
    found = re.search(r"(\d+) reused from earlier runs", done.stdout)
    assert found is not None
    assert 2 * len(finished) <= int(found[1]) < 14
    assert tree_bytes(Layout(root).frames("small")) == tree_bytes(Layout(undisturbed[0]).frames("small"))

    monkeypatch.setattr("components.ingest.run.ray_session", None)  # not even started
    summary = ingest_small(root, small_params(root, *settings))
    assert (summary.videos_made, summary.decoded) == (0, 11)
    assert (journal / "journal").read_text().split() == [*before, *again]


def test_hanging_and_crashing_decoders_cost_their_videos(tmp_path: Path) -> None:
    names = ["good1", "spin", "good2", "abort", "segfault", "leave", "raise", "good3", "good4", "good5"]
    folder = tmp_path / "data" / "small"
    write_msrvtt(folder, names[:8], names[8:9], names[9:])
    for name in names:
        write_mp4(folder / "videos" / f"{name}.mp4")
    settings = [*overrides(tmp_path, "bad"), "frames.time_limit_seconds=1.0", "frames.shard_videos=8"]
    summary = ingest_small(tmp_path, small_params(tmp_path, *settings))
    assert summary.failed == {
        "crashed": ["abort", "segfault", "leave"],
        "decode_error": ["raise"],
        "timeout": ["spin"],
    }
    assert FrameStore(summary.store).ids("all") == ["good1", "good2", "good3", "good4", "good5"]

    with pytest.raises(DataError, match=r"too many videos failed, nothing is published") as caught:
        ingest_small(tmp_path, small_params(tmp_path, *settings, "frames.max_failed_share=0.05"))
    message = str(caught.value)
    assert "found '50.0%'; expected at most 5.0% (frames.max_failed_share)" in message
    assert "crashed 3 (the decoding process died): abort, segfault, leave" in message
    ledger = Path(message.split("every video's reason is in ")[1].split(". ")[0])
    assert ledger.name == schema.LEDGER
    assert ledger.exists()


def test_a_decoder_that_does_not_load_is_one_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.ingest.run.ray_session", None)  # not even started
    DECODERS.register("unloadable", "bad_decoders:no_such_function")
    with pytest.raises(DataError, match="decoder bad_decoders:no_such_function: decoder cannot be loaded"):
        ingest_small(root, small_params(root, *overrides(root, "unloadable")))
    assert not Layout(root).frames("small").exists()


def test_only_one_ingest_of_a_task_runs_at_a_time(root: Path) -> None:
    import fcntl

    folder = root / ".reeltune" / "ingest" / "small"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another ingest of this task is running"):
            ingest_small(root, small_params(root, *overrides(root, "decord")))


def test_an_unknown_decoder_is_named(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"frames\.decoder: unknown decoder; found 'decrod'.*did you mean 'decord'"):
        ingest_small(root, small_params(root, *overrides(root, "decrod")))


def test_the_card_contains_no_places_or_times(undisturbed: tuple[Path, list[str]]) -> None:
    root, _ = undisturbed
    for name, content in tree_bytes(Layout(root).frames("small")).items():
        assert str(root).encode() not in content, name
    card = json.loads((Layout(root).frames("small") / schema.CARD).read_text())
    assert card["videos"] == {
        "train": {"decoded": 6, "failed": 2},
        "val": {"decoded": 2, "failed": 0},
        "test": {"decoded": 3, "failed": 1},
    }
    assert card["settings"]["decoder"] == "journal"
