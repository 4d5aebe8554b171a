"""Vectors as files for other programs: what they hold, what names them, and what is left alone."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_world
import torch
import trained_world
from scripts import run_script
from trained_world import TASK

from components.adapters.file import load_adapter
from components.errors import DataError
from components.evaluation.encode import encode_frames, encode_texts, encode_videos
from components.frames.store import FrameStore
from components.layout import Layout
from components.manifest import NO_CAPTIONS, Manifest, Protocol
from components.methods.base import Method
from components.methods.reader import reader_for
from components.search import export as exports
from components.search.backbones import shared_backbone
from components.search.export import check_target, export, read_export_card, texts_of
from components.search.source import Source, read_source
from components.video import Moment


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with an adapter. One test video has failed, and another one has a moment."""
    root = tmp_path_factory.mktemp("exported")
    tiny_world.write_params(root)
    tiny_world.write_backbone(root)
    videos = list(tiny_world.videos(6, 2, 4))
    videos[8] = dataclasses.replace(
        videos[8], start_seconds=10.0, end_seconds=11.0, moments=(Moment("a square stops", ((0.5, 1.0),)),)
    )
    tiny_world.write_store(root, tuple(videos), failed_test=1)
    trained_world.add_adapter(root, tiny_world.params(root), "mv_adapter", 0)
    return root


@pytest.fixture(scope="module")
def store(root: Path) -> FrameStore:
    return FrameStore(Layout(root).frames(TASK))


@pytest.fixture(scope="module")
def source(root: Path) -> Source:
    return read_source(Layout(root).adapter(TASK, "mv_adapter", 0))


@pytest.fixture
def method(root: Path, source: Source) -> Method:
    return load_adapter(source.folder, shared_backbone(tiny_world.params(root).backbone, root))


def rows(folder: Path, name: str) -> tuple[list[dict[str, object]], np.ndarray]:
    """The rows of a table without their vectors, and the array, which are the same numbers."""
    table, array = pq.read_table(folder / f"{name}.parquet"), np.load(folder / f"{name}.npy")
    assert array.dtype == np.float32
    vectors = table["vector"].combine_chunks()
    assert np.array_equal(np.array(vectors.to_pylist(), dtype=np.float32).reshape(array.shape), array)
    return table.drop_columns(["vector"]).to_pylist(), array


def test_files_hold_the_vectors_of_videos_frames_and_texts(
    method: Method, store: FrameStore, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "ROWS", 2)  # several pieces, the last one short
    card = export(method, store, source, tmp_path / "out", split="test", batch_size=2)
    assert read_export_card(tmp_path / "out") == card
    assert (card.videos, card.frames, card.texts, card.failed) == (3, 11, 5, 1)
    assert (card.adapter_sha256, card.store, card.backbone) == (source.sha256, store.fingerprint, method.spec)

    ids, reader = store.ids("test"), reader_for(method, store)
    videos, vectors = rows(tmp_path / "out", "videos")
    assert [row["video_id"] for row in videos] == ids
    assert vectors == pytest.approx(encode_videos(method, reader, ids, 3).numpy(), abs=1e-6)
    first = store.manifest.by_id()[ids[0]]
    assert videos[0] == {
        "video_id": ids[0],
        "uri": first.uri,
        "split": "test",
        "start_seconds": 10.0,
        "end_seconds": 11.0,
        "window_of": None,
    }

    frames, vectors = rows(tmp_path / "out", "frames")
    expected = encode_frames(method, reader, ids, 3).numpy()
    assert [(row["video_id"], row["frame"]) for row in frames] == [
        (name, k) for name in ids for k in range(len(store.times([name])[name][0]))
    ]
    assert frames[3] == {"video_id": ids[0], "frame": 3, "seconds": 0.75}
    assert vectors[3] == pytest.approx(expected[0, 3], abs=1e-6)

    texts, vectors = rows(tmp_path / "out", "texts")
    assert texts[1] == {"video_id": ids[0], "kind": "moment", "language": None, "text": "a square stops"}
    assert [row["text"] for row in texts] == [row["text"] for row in texts_of(store.manifest, "test")]
    assert vectors == pytest.approx(encode_texts(method, [str(row["text"]) for row in texts], 8).numpy(), abs=1e-6)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_videos_without_captions_have_an_empty_table_of_texts(
    method: Method, store: FrameStore, source: Source, tmp_path: Path
) -> None:
    bare = FrameStore(store.uri)
    videos = tuple(dataclasses.replace(video, captions=(), moments=()) for video in store.manifest.videos)
    bare.manifest = Manifest(TASK, Protocol("table", "videos alone", NO_CAPTIONS, "none"), videos)
    assert export(method, bare, source, tmp_path / "out", split="all", batch_size=4).texts == 0
    texts, vectors = rows(tmp_path / "out", "texts")
    assert (texts, vectors.shape) == ([], (0, method.spec.embed_dim))


def test_a_text_that_is_caption_and_moment_has_one_row() -> None:
    video = dataclasses.replace(
        tiny_world.videos(0, 0, 1)[0],
        captions=("a dog", "ein Hund"),
        languages=("en", "de"),
        moments=(Moment("a dog", ((0.0, 1.0),)), Moment("it barks", ((1.0, 2.0),)), Moment("it barks", ((3.0, 4.0),))),
    )
    made = texts_of(Manifest(TASK, Protocol("x", "1", "all", "listed"), (video,)), "test")
    assert [(row["kind"], row["language"], row["text"]) for row in made] == [
        ("caption", "en", "a dog"),
        ("caption", "de", "ein Hund"),
        ("moment", None, "it barks"),
    ]


def test_what_is_no_export_is_left_alone(tmp_path: Path) -> None:
    check_target(tmp_path / "new")
    check_target(tmp_path)
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(DataError, match=r"not an export and not empty.*found 'thesis\.tex'.*--to"):
        check_target(tmp_path)
    with pytest.raises(DataError, match="found 'a file'"):
        check_target(tmp_path / "thesis.tex")


def test_a_frame_store_is_no_export_although_it_has_a_card(tmp_path: Path) -> None:
    tiny_world.write_project(tmp_path, train=2, val=2, test=2)
    store = tmp_path / "outputs" / "frames" / tiny_world.TASK
    with pytest.raises(DataError, match="not an export and not empty"):
        check_target(store)


def test_vectors_that_are_no_numbers_leave_the_earlier_export(
    method: Method, store: FrameStore, source: Source, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    export(method, store, source, folder, split="val", batch_size=4)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with torch.no_grad():
        next(iter(method.trainable().values())).fill_(float("nan"))
    with pytest.raises(DataError, match=r"vectors of videos are not finite; found 'val000, val001'"):
        export(method, store, source, folder, split="val", batch_size=4)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_the_script_writes_the_folder(root: Path, source: Source, tmp_path: Path) -> None:
    project = Path(shutil.copytree(root, tmp_path / "project"))
    adapter = f"outputs/adapters/{TASK}/mv_adapter-0"
    done = run_script("export.py", project, "--task", TASK, "--adapter", adapter, "--to", "vectors")
    assert done.returncode == 0, done.stderr
    assert f"{TASK}: 11 videos, " in done.stdout
    assert read_export_card(project / "vectors").adapter_sha256 == source.sha256
