"""A frame store that was damaged or edited is refused with one line that names the file, before memory is taken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_world

from components.errors import DataError
from components.frames import schema
from components.frames.jpeg import decode_frames
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.frames.writing import PARQUET
from components.provenance import sha256_file

SHARD = schema.shard_name(0)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    tiny_world.write_store(root, tiny_world.videos(11, 2, 2), failed_test=1)
    return root / "outputs" / "frames" / tiny_world.TASK


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "store"))


def use(folder: Path) -> None:
    """What training does with a store."""
    store = FrameStore(folder)
    assert store.manifest.videos
    FrameReader(store, lambda clip: clip, tiny_world.FRAMES, cache_mib=1).batch(store.ids("all"))


def edit_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads((folder / schema.CARD).read_text())
    change(card)
    (folder / schema.CARD).write_text(json.dumps(card))


def sign(folder: Path) -> None:
    """Writes length and hash of an edited shard into the card, as a person who edits both would."""
    shard = folder / SHARD
    edit_card(folder, lambda c: c["shards"][0].update(bytes=shard.stat().st_size, sha256=sha256_file(shard)))


def edit_rows(folder: Path, name: str, change: Callable[[Rows], Rows], columns: pa.Schema) -> None:
    rows = change(pq.read_table(folder / name).to_pylist())
    pq.write_table(pa.Table.from_pylist(rows, schema=columns), folder / name, row_group_size=8, **PARQUET)


def edit_shard(folder: Path, change: Callable[[Rows], Rows]) -> None:
    edit_rows(folder, SHARD, change, schema.FRAMES_SCHEMA)
    sign(folder)


def edit_ledger(folder: Path, change: Callable[[Rows], Rows]) -> None:
    edit_rows(folder, schema.LEDGER, change, schema.LEDGER_SCHEMA)


def set_jpeg(jpeg: bytes) -> Callable[[Rows], Rows]:
    return lambda rows: [rows[0], {**rows[1], "frames": [jpeg, *rows[1]["frames"][1:]]}, *rows[2:]]


def huge_jpeg(folder: Path) -> bytes:
    """A stored frame whose header states 65,500 pixels in both directions."""
    jpeg = bytearray(pq.read_table(folder / SHARD).to_pylist()[1]["frames"][0])
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = (65_500).to_bytes(2, "big") * 2
    return bytes(jpeg)


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / SHARD).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / SHARD).write_bytes(content)


def foreign(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        pq.write_table(pa.table({"a": [1, 2]}), folder / name)
        sign(folder)

    return change


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (
        flip_a_bit,
        rf"{SHARD}: shard is damaged: its SHA-256 differs.*delete this file, and run .*--overwrite",
    ),
    "foreign shard": (foreign(SHARD), rf"{SHARD}: not the columns of a frame store"),
    "foreign ledger": (foreign(schema.LEDGER), r"ledger\.parquet: not the columns of a frame store"),
    "foreign manifest": (foreign(schema.MANIFEST), "not a manifest table"),
    "fewer rows": (lambda f: edit_shard(f, lambda rows: rows[:-3]), rf"{SHARD}: shard has other rows"),
    "another video in a row": (
        lambda f: edit_shard(f, lambda rows: [{**rows[0], "video_id": "x"}, *rows[1:]]),
        f"{SHARD}, row 0: the ledger names another row.*train000",
    ),
    "cut ledger": (lambda f: edit_ledger(f, lambda rows: rows[:-4]), "does not fit the shards.*found '11 decoded"),
    "row outside": (lambda f: edit_ledger(f, lambda r: [{**r[0], "row": 99}, *r[1:]]), "does not fit the shards"),
    "shard outside": (lambda f: edit_ledger(f, lambda r: [{**r[0], "shard": 7}, *r[1:]]), "does not fit the shards"),
    "two rows": (lambda f: edit_ledger(f, lambda rows: [*rows[1:], rows[1]]), "a video occurs twice.*train001"),
    "status": (lambda f: edit_ledger(f, lambda r: [{**r[0], "status": "good"}, *r[1:]]), "unknown status.*good"),
    "truncated ledger": (
        lambda f: (f / schema.LEDGER).write_bytes((f / schema.LEDGER).read_bytes()[:-50]),
        r"ledger\.parquet: cannot be read",
    ),
    "no ledger": (lambda f: (f / schema.LEDGER).unlink(), r"ledger\.parquet: missing; run pipelines/ingest\.py"),
    "card a list": (lambda f: (f / schema.CARD).write_text("[]"), r"card\.json: not a JSON object"),
    "empty card": (lambda f: (f / schema.CARD).write_text(""), r"card\.json: not JSON"),
    "deep card": (lambda f: (f / schema.CARD).write_text("[" * 100_000), r"card\.json: not JSON"),
    "no rows per group": (
        lambda f: edit_card(f, lambda c: c["settings"].update(row_group_videos=0)),
        r"card\.json: .*settings\.row_group_videos: .*greater than or equal to 1",
    ),
    "shards not a list": (lambda f: edit_card(f, lambda c: c.update(shards={})), r"card\.json: .*shards"),
    "no picture": (
        lambda f: edit_shard(f, set_jpeg(b"\xff\xd8 no picture")),
        rf"train001 \(.*{SHARD}, row 1\): damaged JPEG",
    ),
    "huge picture": (
        lambda f: edit_shard(f, set_jpeg(huge_jpeg(f))),
        rf"train001 \(.*{SHARD}, row 1\): huge JPEG; found \(65500, 65500\); expected at most 33554432 pixels",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_error_that_names_the_file(folder: Path, name: str) -> None:
    use(folder)
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(DataError, match=f"(?s){message}"):
        use(folder)


def test_the_hash_is_compared_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FrameStore(folder)
    first = list(store.read(["train000"]))
    flip_a_bit(folder)
    # A store that is open keeps what it has checked.
    assert [video.video_id for video in store.read(["train001"])] == ["train001"]
    assert decode_frames(first[0].frames).shape == (tiny_world.FRAMES, 32, 32, 3)
