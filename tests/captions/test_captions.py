"""Captions of training frames: from tables of all kinds, from a captioner in actors, and what is refused."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_world
from made_store import make_store, row_of

from components.captions.file import read_captions, write_table
from components.captions.make import Work, caption_videos
from components.captions.run import caption
from components.captions.table import captions_of_table
from components.config import check
from components.errors import ConfigError, DataError, ReelTuneError
from components.frames.jpeg import encode_frames
from components.frames.store import FrameStore
from components.layout import Layout
from components.params import load_params
from components.task import CaptionSettings

HERE = Path(__file__).parent
CAPTIONER = "small_captioner:Colours"
TASK = tiny_world.TASK
IDS = ["train0", "train1", "train2"]


def picture_row(video_id: str) -> dict[str, object]:
    """Two frames, a red and a green one. Those of train1 are wider."""
    width = 48 if video_id == "train1" else 32
    frames = np.zeros((2, 32, width, 3), dtype=np.uint8)
    frames[0, ..., 0] = frames[1, ..., 1] = 200
    return {**row_of(video_id), "frames": encode_frames(frames, 95), "width": width}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, make_row=picture_row)
    return FrameStore(folder)


def rows(column: str = "frame") -> list[dict[str, Any]]:
    """The rows of three videos, the last frame first. Frames are shown after 0.5 and 1.5 seconds."""
    place = {"frame": (0, 1), "seconds": (0.4, 1.7)}[column]
    return [
        {"video_id": name, column: place[number], "caption": f"{name}, frame {number}"}
        for name in IDS
        for number in (1, 0)
    ]


def write(path: Path, content: list[dict[str, Any]]) -> str:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        pq.write_table(pa.Table.from_pylist(content), path)
    return str(path)


@pytest.mark.parametrize("column", ["frame", "seconds"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_of_captions(store: FrameStore, tmp_path: Path, kind: str, column: str) -> None:
    where = write(tmp_path / f"table.{kind}", rows(column))
    found = captions_of_table(where, store, IDS)
    assert found == {name: (f"{name}, frame 0", f"{name}, frame 1") for name in IDS}


def test_rows_of_other_videos_are_left_out_and_named(
    store: FrameStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    where = write(tmp_path / "t.csv", [*rows(), {"video_id": "test0", "frame": 7, "caption": "x"}])
    assert list(captions_of_table(where, store, IDS)) == IDS
    assert "left out: test0" in caplog.text


FAULTS: Mapping[str, tuple[dict[str, Any], str]] = {
    "place": ({"frame": 2}, r"t\.jsonl:1: frame is not a place in the video; found 2; expected 0 to 1"),
    "kind": ({"frame": "one"}, r"t\.jsonl:1: frame is not a place in the video; found 'one'"),
    "truth": ({"frame": True}, r"t\.jsonl:1: frame is not a place"),
    "twice": ({"frame": 0}, r"t\.jsonl:2: frame has two captions; found 'frame 0 of train0'.*remove this row or .*:1"),
    "missing": ({"video_id": "gone"}, r"no row for frame 1 of train0; in all, frames are missing of train0"),
    "neither": ({"frame": None}, r"t\.jsonl:1: row does not say which frame.*found 'neither'"),
    "both": ({"seconds": 0.5}, r"t\.jsonl:1: row does not say which frame.*found 'frame, seconds'"),
    "empty": ({"caption": " "}, r"t\.jsonl:1: empty caption"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_table(store: FrameStore, tmp_path: Path, fault: str) -> None:
    changes, message = FAULTS[fault]
    content = rows()
    content[0] |= changes
    with pytest.raises(DataError, match=message) as error:
        captions_of_table(write(tmp_path / "t.jsonl", content), store, IDS)
    assert "\n" not in str(error.value)


def test_a_table_without_a_column(store: FrameStore, tmp_path: Path) -> None:
    content = [{"video_id": row["video_id"], "caption": row["caption"]} for row in rows()]
    with pytest.raises(DataError, match="row does not say which frame"):
        captions_of_table(write(tmp_path / "t.csv", content), store, IDS)
    with pytest.raises(
        DataError, match=r"column is missing; found \['caption', 'frame'\]; expected 'video_id'|video_id"
    ):
        captions_of_table(write(tmp_path / "u.jsonl", [{"caption": "x", "frame": 0}]), store, IDS)


def work(tmp_path: Path, batch_size: int = 3, **options: Any) -> Work:
    return Work("", tmp_path, CAPTIONER, json.dumps(options), batch_size)


def test_frames_of_one_size_go_into_a_call(store: FrameStore, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    found = caption_videos(store, IDS, work(tmp_path, calls=str(calls)))
    assert found == dict.fromkeys(IDS, ("a red picture", "a green picture"))
    # Four frames of 32 x 32 pixels in calls of three, and two wider ones.
    assert sorted(calls.read_text().split()) == ["1", "2", "3"]


OUTPUTS = {
    "few": r"a text per frame; found '2 objects'; expected a list of 3 texts",
    "one text": "a text per frame; found 'str'",
    "nothing": "a text per frame; found 'NoneType'",
    "empty": "frame 0 of train0: empty caption",
    "number": "frame 0 of train0: empty caption; found 3; expected a text",
    "half": r"frame 0 of train0: text with half a character",
    "raises": r"small_captioner:Colours: the captioner raised on frames of 3x32x32x3; found 'ValueError: two lines'",
    "start": r"small_captioner:Colours: the captioner does not start; found 'OSError: no weights here'",
}


@pytest.mark.parametrize("fault", OUTPUTS)
def test_faults_of_a_captioner(store: FrameStore, tmp_path: Path, fault: str) -> None:
    with pytest.raises((DataError, ConfigError), match=OUTPUTS[fault]) as error:
        caption_videos(store, IDS, work(tmp_path, fault=fault))
    assert "\n" not in str(error.value)


def test_settings_name_one_source() -> None:
    for raw in ({}, {"captioner": CAPTIONER, "table": "t.csv"}):
        with pytest.raises(ConfigError, match="set either captioner or table"):
            check(CaptionSettings, raw, "tasks.x.captions")
    with pytest.raises(ConfigError, match="options belong to a captioner"):
        check(CaptionSettings, {"table": "t.csv", "options": {"a": 1}}, "tasks.x.captions")


def publish(root: Path, settings: CaptionSettings | None) -> str:
    params = load_params(root / "params.yaml")
    task = replace(params.task(TASK), captions=settings)
    return caption(root, TASK, task, {"disco": True, "vop": False}, params.ray)


def uses(root: Path, method: str) -> str | None:
    found: str | None = json.loads((Layout(root).captions(TASK) / f"for-{method}.json").read_text())["captions"]
    return found


def test_a_stage_reads_a_table_and_notes_who_uses_it(tmp_path: Path) -> None:
    tiny_world.write_project(tmp_path, train=3, val=1, test=1)
    folder = Layout(tmp_path).captions(TASK)
    assert publish(tmp_path, None).startswith("tiny: no captions of frames are needed (no tasks.tiny.captions, or")
    assert sorted(path.name for path in folder.iterdir()) == ["for-disco.json", "for-vop.json"]
    content = [
        {"video_id": f"train{video:03d}", "frame": frame, "caption": f"{video} {frame}"}
        for video in range(3)
        for frame in range(4)
    ]
    (tmp_path / "data/tiny/more").mkdir(parents=True)
    write(tmp_path / "data/tiny/more/t.csv", content)
    assert publish(tmp_path, CaptionSettings(table="more/t.csv")).startswith("tiny: 12 captions of the frames of 3 tr")
    first = read_captions(folder)
    assert first.of_video["train002"] == ("2 0", "2 1", "2 2", "2 3")
    assert first.card.store == FrameStore(Layout(tmp_path).frames(TASK)).fingerprint
    assert (uses(tmp_path, "disco"), uses(tmp_path, "vop")) == (first.card.fingerprint, None)
    content[0]["caption"] = "other"
    write(tmp_path / "data/tiny/more/t.csv", content)
    publish(tmp_path, CaptionSettings(table="more/t.csv"))
    second = read_captions(folder)
    assert second.of_video["train000"][0] == "other"
    assert uses(tmp_path, "disco") == second.card.fingerprint != first.card.fingerprint
    # They may have taken hours, so they outlast a run that does not ask for them.
    publish(tmp_path, None)
    assert read_captions(folder) == second
    assert uses(tmp_path, "disco") == second.card.fingerprint
    unused = replace(load_params(tmp_path / "params.yaml").task(TASK), captions=CaptionSettings(table="no such table"))
    caption(tmp_path, TASK, unused, {"vop": False}, load_params(tmp_path / "params.yaml").ray)
    assert read_captions(folder) == second


@pytest.mark.slow
def test_an_actor_captions_and_a_run_continues_after_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_variables: dict[str, str]
) -> None:
    """Three parts, of which the last is faulty. What was made before is kept."""
    for name, value in {**ray_variables, "PYTHONPATH": str(HERE)}.items():
        monkeypatch.setenv(name, value)
    tiny_world.write_project(tmp_path, train=34, val=1, test=1)
    # A call of the first parts has 32 frames or nearly so. The last part has two videos, of 8 frames.
    options: dict[str, str | int | float | bool] = {"fault_below": 16}
    settings = CaptionSettings(captioner=CAPTIONER, options=options, batch_size=32)
    with pytest.raises(DataError, match="a text per frame; found '7 objects'") as error:
        publish(tmp_path, settings)
    assert "\n" not in str(error.value)
    (kept,) = [path for path in Layout(tmp_path).captions_work(TASK).iterdir() if path.is_dir()]
    assert sorted(path.name for path in kept.iterdir()) == ["part-00000.parquet", "part-00001.parquet"]

    # With the last part, everything is there, so Ray does not start.
    store = FrameStore(Layout(tmp_path).frames(TASK))
    last = caption_videos(store, store.ids("train")[32:], work(tmp_path, 5))
    write_table(kept / "part-00002.parquet", last)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert "of the frames of 34 training videos" in publish(tmp_path, settings)
    found = read_captions(Layout(tmp_path).captions(TASK))
    assert found.of_video == caption_videos(store, store.ids("train"), work(tmp_path, 5))
    assert list(found.of_video) == store.ids("train")
    assert found.card.source["captioner"] == CAPTIONER
    assert not kept.exists()
    publish(tmp_path, settings)
    assert read_captions(Layout(tmp_path).captions(TASK)).card == found.card
    with pytest.raises(ReelTuneError, match="RAY_ADDRESS"):
        publish(tmp_path, replace(settings, options={"words": "{} it is"}))
