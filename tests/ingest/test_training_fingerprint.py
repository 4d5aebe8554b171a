"""The fingerprint of what training reads of a store: windows and facts, which are only searched, are not in it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny_world
from counted import write_counted
from test_reuse import run
from test_window_store import WINDOWS, parts

from components import storage
from components.frames import schema
from components.frames.store import FrameStore
from components.ingest.publish import publish
from components.task import WindowSettings
from components.training.job import Job
from components.video import Moment

TABLE = (
    "video,caption,split,year",
    "long.mp4,a long one,train,{}",
    "longer.mp4,a longer one,val,2020",
    "short.mp4,a short one,test,",
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root") / "data" / "videos"
    folder.mkdir(parents=True)
    for name, frames in (("long", 125), ("longer", 175), ("short", 30)):
        write_counted(folder / f"{name}.mp4", frames=frames)
    return folder.parents[1]


@pytest.fixture
def root(tmp_path: Path, videos: Path) -> Path:
    return Path(shutil.copytree(videos, tmp_path / "root"))


def made(root: Path, windows: WindowSettings | None = WINDOWS, year: str = "2021", caption: str = "") -> FrameStore:
    """Ingests a table of three videos."""
    text = "\n".join(TABLE).format(year).replace("a long one", caption or "a long one")
    if year == "-":  # no column of facts
        text = "\n".join(line.rpartition(",")[0] for line in text.splitlines())
    (root / "data" / "captions.csv").write_text(text)
    return FrameStore(run(root, *parts(root, windows=windows)))


def compared(store: FrameStore) -> bytes:
    """The file that DVC compares."""
    return (Path(store.uri) / schema.TRAINING).read_bytes()


def test_neither_windows_nor_facts_change_what_training_reads(root: Path) -> None:
    plain = made(root, windows=None, year="-")
    assert plain.training_fingerprint == plain.fingerprint
    assert "training_fingerprint" not in (Path(plain.uri) / schema.CARD).read_text()
    others = [
        made(root, windows=None, year="2021"),
        made(root, windows=None, year="2022"),
        made(root, year="2022"),
        made(root, windows=WindowSettings(seconds=5)),
        made(root, windows=WindowSettings(seconds=6, cut="shots")),
    ]
    assert {store.training_fingerprint for store in others} == {plain.fingerprint}
    assert {compared(store) for store in others} == {compared(plain)}
    # The whole differs each time, which an index notices.
    assert len({store.fingerprint for store in (plain, *others)}) == 6


def test_captions_pictures_and_failures_change_it(root: Path) -> None:
    short = root / "data" / "videos" / "short.mp4"
    found = [made(root, windows=None).training_fingerprint]
    found.append(made(root, windows=None, caption="another text").training_fingerprint)
    write_counted(short, frames=31)
    found.append(made(root, windows=None).training_fingerprint)
    short.write_text("no video")
    found.append(made(root, windows=None).training_fingerprint)
    assert len(set(found)) == 4


def test_moments_change_the_file_that_dvc_compares(root: Path) -> None:
    before = made(root, windows=None)
    told_before = json.loads(compared(before))
    manifest, settings = parts(root, windows=None)
    first = dataclasses.replace(manifest.videos[0], moments=(Moment("a text", ((0.0, 1.0),)),))
    told = dataclasses.replace(manifest, videos=(first, *manifest.videos[1:]))
    after = FrameStore(run(root, told, settings))
    assert after.training_fingerprint == before.training_fingerprint
    told_after = json.loads(compared(after))
    assert told_after.pop("moments")
    assert told_after == told_before


def test_a_store_elsewhere_and_one_of_an_earlier_release(root: Path, tmp_path: Path) -> None:
    store = made(root)
    publish(Path(store.uri), tmp_path / "frames", storage.join(tmp_path, "elsewhere"))
    assert (tmp_path / "frames" / schema.TRAINING).read_bytes() == compared(store)
    assert FrameStore(tmp_path / "frames").training_fingerprint == store.training_fingerprint != store.fingerprint
    # An earlier release knew only the whole.
    path = tmp_path / "frames" / schema.CARD
    content = json.loads(path.read_text())
    del content["training_fingerprint"]
    path.write_text(json.dumps(content))
    assert FrameStore(tmp_path / "frames").training_fingerprint == store.fingerprint


def test_a_training_goes_by_what_it_reads(tmp_path: Path) -> None:
    tiny_world.write_project(tmp_path)
    job = Job.of(tmp_path, tiny_world.params(tmp_path), tiny_world.TASK, "vop", 0)
    before = job.plan()
    path = tmp_path / "outputs" / "frames" / tiny_world.TASK / schema.CARD
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "fingerprint": "other", "training_fingerprint": before.store}))
    assert (job.plan().key, job.plan().store) == (before.key, before.store)
    path.write_text(json.dumps({**content, "training_fingerprint": "other"}))
    assert job.plan().key != before.key
