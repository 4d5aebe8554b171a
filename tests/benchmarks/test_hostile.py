"""Annotations that are deep, huge or broken: one error with the file and the place, and no memory taken for it."""

from __future__ import annotations

import json
import pickle
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from video_files import write_msrvtt

from components.benchmarks import activitynet, didemo, msrvtt, msvd, table
from components.benchmarks.plain_pickle import read_plain_pickle
from components.errors import DataError
from components.manifest import Manifest, Protocol
from components.video import Video

DEEP = "[" * 100_000 + "]" * 100_000
LONG = "1" * 5000
HALF = '"\\ud83d"'  # the first half of an emoji


def write_msvd(folder: Path) -> None:
    for name in ("train", "val", "test"):
        (folder / f"{name}_list.txt").write_text(name)
    (folder / "captions_msvd.json").write_text(json.dumps({name: ["a"] for name in ("train", "val", "test")}))


def write_activitynet(folder: Path) -> None:
    for name, ids in (("train", ["v_a", "v_b"]), ("val_1", ["v_c"])):
        (folder / f"{name}.json").write_text(json.dumps({video: {"sentences": ["a"]} for video in ids}))
        (folder / f"{name.partition('_')[0]}_ids.json").write_text(json.dumps(ids))


def write_didemo(folder: Path) -> None:
    for name in ("train", "val", "test"):
        (folder / f"{name}_list.txt").write_text(f"{name}.mp4")
        (folder / f"{name}_data.json").write_text(json.dumps([{"video": f"{name}.mp4", "description": "a"}]))


def write_small_msrvtt(folder: Path) -> None:
    write_msrvtt(folder, ["a"], ["b"], ["c"])


CASES: list[tuple[Callable[[Path], None], Callable[..., Manifest], str, str]] = [
    (write_small_msrvtt, msrvtt.read, "MSRVTT_data.json", '{"videos": [%s], "sentences": []}'),
    (write_small_msrvtt, msrvtt.read, "subsets.json", '{"temporal": %s}'),
    (write_msvd, msvd.read, "captions_msvd.json", '{"train": [%s]}'),
    (write_activitynet, activitynet.read, "train.json", '{"v_a": {"sentences": [%s]}}'),
    (write_activitynet, activitynet.read, "train_ids.json", "[%s]"),
    (write_didemo, didemo.read, "val_data.json", '[{"video": "val.mp4", "description": %s}]'),
    (lambda folder: None, table.read, "captions.jsonl", '{"video": "a.mp4", "caption": %s}'),
]


@pytest.mark.parametrize(("write", "read", "name", "form"), CASES, ids=[case[2] for case in CASES])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (DEEP, "nested too deeply"),
        (LONG, "number with too many digits"),
        (HALF, r"half a character \(a lone surrogate\); found '\\ud83d'"),
        ('{"a": 1, "a": 2}', "key occurs twice; found 'a'"),
        ("[" * 300 + "]" * 300, None),
        ("true", None),
    ],
)
def test_a_hostile_value_is_one_error_in_every_reader(
    tmp_path: Path, write: Callable[[Path], None], read: Callable[..., Manifest], name: str, form: str,
    value: str, message: str | None,
) -> None:  # fmt: skip
    write(tmp_path)
    (tmp_path / name).write_text(form % value)
    with pytest.raises(DataError, match=message) as caught:
        read("mine", str(tmp_path), {})
    assert str(caught.value).startswith(f"{tmp_path / name}")
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video": "\\ud800.mp4", "caption": "b"}', r"jsonl:1: text with half a character.*found '\\ud800\.mp4'"),
        ('{"video": "a.mp4", "caption": "b", "start": %s}' % ("1" * 400), r"jsonl:1: start is not a time"),
        ('{"video": "a.mp4", "caption": "b", "start": true}', r"jsonl:1: start is not a time; found True"),
        ('{"video": "a.mp4", "caption": "b", "end": NaN}', r"jsonl:1: end is not a time; found nan"),
        ('{"video": ["a.mp4"], "caption": "b"}', r"jsonl:1: not a path below the collection's folder; found \['a"),
        ('{"video": "a.mp4", "caption": 7}', r"jsonl:1: empty caption; found 7"),
        ('{"video": "a.mp4", "caption": "b", "Split": "test"}', r"jsonl:1: column is spelled differently"),
    ],
)
def test_a_hostile_row_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "captions.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        table.read("mine", str(tmp_path), {})


def test_a_pair_of_surrogates_is_a_character(tmp_path: Path) -> None:
    lines = [f'{{"video": "{name}.mp4", "caption": "fun \\ud83d\\ude00 {name}"}}' for name in "abc"]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    assert table.read("mine", str(tmp_path), {}).by_id()["a"].captions == ("fun \U0001f600 a",)


def test_a_manifest_refuses_text_that_cannot_be_written() -> None:
    """The last check, for readers of other packages."""
    sound = [Video(name, name, name, ("x",)) for name in ("train", "val", "test")]
    for broken in (Video("a", "a\udce9.mp4", "train", ("x",)), Video("a", "a.mp4", "train", ("\ud800",))):
        with pytest.raises(DataError, match=r"task mine: text with half a character .*; found 'a'"):
            Manifest("mine", Protocol("x", "1", "all", "listed"), (*sound, broken)).check()


BIG = b"\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x96\x00\x00\x00\x00\x01\x00\x00\x00", "the file has the command BYTEARRAY8"),
        (b"]r" + BIG + b".", None),  # an object that is remembered under a high number
        (b"]p2000000000\n.", None),
        (b"\x8b" + BIG, "EOFError"),
        (b"\x95" + BIG + b"\x00\x00\x00\x00", "EOFError"),
        (b"B" + BIG, "EOFError"),
        (b"}(" + b")" + b"\x85" * 100_000 + b"Nu.", "a key is a tuple"),
        (b"})" + b"\x85" * 100_000 + b"Ns.", "a key is a tuple"),
        (b"\x8f()" + b"\x85" * 100_000 + b"\x90.", "a key is a tuple"),
        (b"I" + b"1" * 5000 + b"\n.", "ValueError"),
        (b"cos\nsystem\n.", r"names os\.system"),
        (b"\x82\x01.", "the file has the command EXT1"),
        (b"]N\x81.", "the file has the command NEWOBJ"),
    ],
)
def test_a_pickle_takes_no_memory_for_what_it_only_states(tmp_path: Path, content: bytes, message: str | None) -> None:
    path = tmp_path / "raw-captions.pkl"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        if message is None:
            assert read_plain_pickle(str(path), "texts", "JSON") == []
        else:
            with pytest.raises(DataError, match=rf"{re.escape(str(path))}: not a plain pickle; found .*{message}"):
                read_plain_pickle(str(path), "texts", "JSON")
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_a_pickle_that_names_one_list_many_times_is_refused(tmp_path: Path) -> None:
    write_msvd(tmp_path)
    (tmp_path / "captions_msvd.json").unlink()
    words = ["x" * 1000] * 2000
    path = tmp_path / "raw-captions.pkl"
    path.write_bytes(pickle.dumps({name: [words] * 5000 for name in ("train", "val", "test")}))
    assert path.stat().st_size < 50_000
    with pytest.raises(DataError, match=r"raw-captions\.pkl train: captions that fill the memory"):
        msvd.read("mine", str(tmp_path), {})
