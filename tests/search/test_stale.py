"""An index knows what it was made from, and says so when that has changed."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_world
import torch
import trained_world
from mlflow.pyfunc import PythonModelContext
from registered_world import model_config
from trained_world import TASK

from components.adapters.file import load_adapter
from components.errors import AdapterError, DataError, RegistryError
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.build import build
from components.search import index as indexes
from components.search.notes import shapes_note
from components.search.pyfunc import RankingModel
from components.search.query import Searcher, shared_backbone
from components.search.source import of_champion
from components.tracking.record import Champion


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a frame store, an adapter and its index."""
    root = tmp_path_factory.mktemp("stale")
    tiny_world.write_project(root)
    trained_world.add_adapter(root, tiny_world.params(root), "vop", 0)
    write_index(root)
    return root


@pytest.fixture
def root(ready: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ready, tmp_path / "project"))


def write_index(root: Path) -> None:
    """What the index stage does for an adapter that somebody chose."""
    params, layout = tiny_world.params(root), Layout(root)
    adapter, store = layout.adapter(TASK, "vop", 0), FrameStore(layout.frames(TASK))
    method = load_adapter(adapter, shared_backbone(params.backbone, root))
    made = indexes.build(method, store, split="test", adapter_sha256=indexes.read_card(adapter).sha256, batch_size=4)
    indexes.write(made, layout.index(TASK), adapter, {"split": "test", "store": store.fingerprint})


def ingest(root: Path, test: int) -> None:
    """Publishes a store with another number of test videos."""
    shutil.rmtree(Layout(root).frames(TASK))
    tiny_world.write_store(root, tiny_world.videos(24, 8, test))


@pytest.mark.parametrize("test", [7, 9])
def test_an_index_of_another_store_is_refused_and_its_cure_cures(root: Path, test: int) -> None:
    assert len(Searcher.open(root, TASK).search("a red square", top=100)) == 8
    ingest(root, test)
    with pytest.raises(DataError, match=r"another frame store.*python pipelines/index\.py --task tiny"):
        Searcher.open(root, TASK)
    write_index(root)
    hits = Searcher.open(root, TASK).search("a red square", top=100)
    assert sorted(hit.video_id for hit in hits) == [f"test{number:03d}" for number in range(test)]


def test_an_index_without_frames_is_searched(root: Path) -> None:
    shutil.rmtree(Layout(root).frames(TASK))
    assert Searcher.open(root, TASK).search("a red square", top=1)


def test_a_loaded_model_never_ranks_a_video_that_was_removed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = RankingModel()
    artifacts = {"adapter": str(Layout(root).adapter(TASK, "vop", 0))}
    model.load_context(PythonModelContext(artifacts, asdict(model_config(tiny_world.params(root), root))))

    def ranked() -> set[str]:
        return set(model.predict(None, pd.DataFrame({"text": ["a red square"]}), {"top": 100})["video_id"])

    assert "test007" in ranked()
    assert caplog.messages == []
    ingest(root, 7)
    assert ranked() == {f"test{number:03d}" for number in range(7)}
    assert "another frame store" in caplog.text
    caplog.clear()
    write_index(root)
    assert len(ranked()) == 7
    assert caplog.messages == []


def test_vectors_that_are_not_finite_are_neither_written_nor_read(root: Path) -> None:
    params, layout = tiny_world.params(root), Layout(root)
    method = load_adapter(layout.adapter(TASK, "vop", 0), shared_backbone(params.backbone, root))
    with torch.no_grad():
        next(iter(method.trainable().values())).fill_(torch.nan)
    with pytest.raises(DataError, match=r"8 of 8 vectors are not finite; found 'test000, "):
        indexes.build(method, FrameStore(layout.frames(TASK)), split="test", adapter_sha256="", batch_size=4)
    part = indexes.read(layout.index(TASK)).segments[0]
    vectors = part.vectors.copy()
    vectors[3, 5] = np.nan
    bad = indexes.Index(indexes.read(layout.index(TASK)).card, (dataclasses.replace(part, vectors=vectors),))
    with pytest.raises(DataError, match="vectors are not finite"):
        bad.searched(torch.device("cpu")).best(torch.ones(1, bad.dimension), 1)


def test_an_adapter_of_fewer_frames_says_which_setting_to_change(root: Path) -> None:
    params, layout = tiny_world.params(root), Layout(root)
    method = build("vop", {"lr": 1e-3}, shared_backbone(params.backbone, root), frames=2, words=16)
    store = FrameStore(layout.frames(TASK))
    with pytest.raises(DataError, match=r"set tasks\.tiny\.frames: 2 and run python pipelines/ingest\.py --task tiny"):
        indexes.build(method, store, split="test", adapter_sha256="", batch_size=4)
    more = build("vop", {"lr": 1e-3}, method.backbone, frames=9, words=16)
    assert indexes.build(more, store, split="test", adapter_sha256="", batch_size=4).count == 8


def test_the_mini_backbone_says_what_it_knows(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Searcher.open(root, TASK)
    assert "knows only the moving shapes" in caplog.text
    assert "tasks.tiny.backbone: {model: ViT-B-32, pretrained: openai}" in caplog.text
    assert shapes_note("mini", "shapes-clips") is None
    assert shapes_note("ViT-B-32", "mine") is None


def test_the_exported_champion_is_the_one_of_the_record(root: Path) -> None:
    layout = Layout(root)
    folder = "outputs/adapters/tiny/vop-0"
    sha256 = indexes.read_card(root / folder).sha256
    assert of_champion(layout, Champion("vop", 0, "1", "r", sha256, folder)).sha256 == sha256
    with pytest.raises(RegistryError, match=r"not the champion's adapter.*run the register stage"):
        of_champion(layout, Champion("vop", 0, "1", "r", "0" * 64, folder))
    with pytest.raises(AdapterError, match="missing"):
        of_champion(layout, Champion("vop", 0, "1", "r", sha256, "outputs/nowhere"))
