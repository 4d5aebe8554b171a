"""A benchmark reader from outside the project, named in params.yaml."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from video_files import REPOSITORY

from components import plugins
from components.benchmarks.check import check
from components.benchmarks.reader import read_manifest
from components.errors import ConfigError
from components.names import NAMES
from components.params import load_params

HERE = Path(__file__).parent
TARGET = "outside_benchmark:READER"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "list.txt").write_text("train a a cat\nval b a dog\ntest c a bird\n")
    for name in "abc":
        (folder / f"{name}.mp4").write_bytes(b"-")
    text = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    entry = f'  mine:\n    benchmark: "{TARGET}"\n    root: data\n    frames: 4\n    words: 16\n'
    (tmp_path / "params.yaml").write_text(text.replace("\ntasks:\n", f"\ntasks:\n{entry}", 1), encoding="utf-8")
    return tmp_path


@pytest.fixture
def entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A name for the reader, as an installed package declares it."""
    folder = tmp_path / "packages" / "outside-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[reeltune.benchmarks]\nlists = {TARGET}\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    plugins._entry_points.cache_clear()
    yield "lists"
    plugins._entry_points.cache_clear()


def test_a_reader_from_outside_is_used_from_params(root: Path) -> None:
    task = load_params(root / "params.yaml", names=NAMES).task("mine")
    manifest = read_manifest("mine", task, root)
    assert [(video.video_id, video.uri) for video in manifest.split("test")] == [("c", "data/c.mp4")]
    assert check("mine", task, root).complete


def test_an_entry_point_is_a_name_like_others(root: Path, entry_point: str) -> None:
    overrides = [f"tasks.mine.benchmark={entry_point}"]
    task = load_params(root / "params.yaml", overrides, NAMES).task("mine")
    assert read_manifest("mine", task, root).protocol.benchmark == "outside"


def test_a_script_takes_it_too(root: Path) -> None:
    script = [sys.executable, str(REPOSITORY / "pipelines" / "data.py"), "check", "--task", "mine", "--root", str(root)]
    path = os.pathsep.join([str(REPOSITORY), str(HERE)])
    done = subprocess.run(script, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert "list.txt: " in done.stdout
    assert done.stdout.splitlines()[-1] == "complete: ingest takes what is there"


def test_one_that_is_not_installed_says_what_to_install(root: Path) -> None:
    task = load_params(root / "params.yaml", ["tasks.mine.benchmark=no_such_package:READER"], NAMES).task("mine")
    with pytest.raises(ConfigError, match=r"tasks\.mine\.benchmark: .*install the package that provides 'no_such_pack"):
        read_manifest("mine", task, root)
