"""A decoder of another package is used by its name in params.yaml, in every process, or refused with one message."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_reuse import run
from video_files import REPOSITORY, SMALL, small_params, write_collection

from components.benchmarks.reader import read_manifest
from components.errors import ConfigError, DataError
from components.frames.jpeg import decode_frames
from components.frames.store import FrameStore
from components.ingest.run import ingest, read_settings
from components.layout import Layout

GREY = '''
"""A decoder that shows 20 grey frames, whatever the file contains."""

from pathlib import Path

import numpy as np

from components.ingest.decoders.base import DecodedFrames, DecodeError

NUMBER = 1


def decode(path, choose, side=None):
    if Path(path).stem == "video1":
        raise DecodeError("unreadable", "refused")
    times = [index / 10 for index in range(20)]
    indices = choose(times)
    frames = [np.full((48, 64, 3), 10 * index, np.uint8) for index in indices]
    return DecodedFrames(frames, indices, [times[index] for index in indices], 20, 10.0, 2.0, "grey 1.0")
'''
NAME = "my_decoders.grey:decode"
SETTINGS = [f"frames.decoder={NAME}", "frames.max_failed_share=0.5"]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the package ``my_decoders``, apart from the project."""
    folder = tmp_path / "elsewhere"
    (folder / "my_decoders").mkdir(parents=True)
    (folder / "my_decoders" / "__init__.py").touch()
    (folder / "my_decoders" / "grey.py").write_text(GREY)
    (folder / "my_decoders" / "broken.py").write_text("1 / 0\n")
    (folder / "my_decoders" / "leaving.py").write_text("raise SystemExit\n")
    return folder


def check(store: FrameStore) -> None:
    fates = {row["video_id"]: (row["reason"], row["detail"], row["decoder"]) for row in store.ledger().to_pylist()}
    assert fates["video1"] == ("unreadable", "refused", NAME)
    assert {fate for name, fate in fates.items() if name != "video1"} == {("", "", "grey 1.0")}
    (video,) = store.read(["video0"])
    assert [round(frame.mean()) for frame in decode_frames(video.frames)] == [10 * i for i in video.frame_indices]
    assert store.card.settings.decoder == NAME


def test_it_decodes_in_the_decoding_process(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(package))
    monkeypatch.syspath_prepend(str(package))
    write_collection(tmp_path / "data" / "small", train=3, val=1, test=1)
    params = small_params(tmp_path, *SETTINGS)
    task = params.task("small")
    check(FrameStore(run(tmp_path, read_manifest("small", task, tmp_path), read_settings(task, params.frames))))
    assert "my_decoders.grey" not in sys.modules


@pytest.mark.slow
def test_it_decodes_on_ray_from_the_command_line(package: Path, tmp_path: Path) -> None:
    write_collection(tmp_path / "data" / "small", train=3, val=1, test=1)
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    command = [sys.executable, str(REPOSITORY / "pipelines" / "ingest.py"), "--root", str(tmp_path), "--task", "small"]
    path = os.pathsep.join([str(package), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([*command, *SMALL, *SETTINGS], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    check(FrameStore(Layout(tmp_path).frames("small")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_decoder.grey:decode", "cannot be loaded; found \"ModuleNotFoundError: No module named 'my_decoder'\""),
        (
            "my_decoders.gray:decode",
            "cannot be loaded; found \"ModuleNotFoundError: No module named 'my_decoders.gray'",
        ),
        ("my_decoders.grey:decod", "cannot be loaded; found \"AttributeError: module 'my_decoders.grey' has no attr"),
        ("my_decoders.grey:NUMBER", "cannot be loaded; found 'TypeError: NUMBER is not a function'"),
        ("my_decoders.broken:decode", "cannot be loaded; found 'ZeroDivisionError: division by zero'"),
        ("my_decoders.leaving:decode", "decoding process does not start; found 'EOFError'"),
    ],
)
def test_one_that_does_not_load_is_one_error_before_ray_starts(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setattr("components.ingest.run.ray_session", None)
    write_collection(tmp_path / "data" / "small", train=1, val=1, test=1)
    params = small_params(tmp_path, f"frames.decoder='{name}'")
    with pytest.raises(DataError) as caught:
        ingest(tmp_path, "small", params.task("small"), params.frames, params.ray)
    assert f"decoder {name}: " in str(caught.value)
    assert message in str(caught.value)
    if "cannot be loaded" in message:
        assert str(caught.value).endswith("install its package, or put its folder on PYTHONPATH")
    assert not Layout(tmp_path).frames("small").exists()


@pytest.mark.parametrize("name", ["my_decoders.grey.decode", "my decoders:decode", "grey:", ":decode"])
def test_a_name_that_is_no_decoder_is_a_fault_of_the_settings(tmp_path: Path, name: str) -> None:
    params = small_params(tmp_path, f"frames.decoder='{name}'")
    with pytest.raises(ConfigError, match=r"frames\.decoder: unknown decoder; found .*; expected one of auto, "):
        read_settings(params.task("small"), params.frames)
