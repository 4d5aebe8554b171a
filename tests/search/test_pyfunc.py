from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import tiny_world
import trained_world
from mlflow.pyfunc import PythonModelContext
from registered_world import model_config
from trained_world import TASK

import components.search.pyfunc
from components.errors import ConfigError, ReelTuneError, RegistryError
from components.search.pyfunc import COLUMNS, RankingModel
from components.tracking.model import save_model


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one adapter, a frame store and no index."""
    root = tmp_path_factory.mktemp("served")
    tiny_world.write_project(root)
    trained_world.add_adapter(root, tiny_world.params(root), "vop", 0)
    return root


def loaded(root: Path, **changes: object) -> RankingModel:
    """The model as MLflow loads it from a registered version."""
    artifacts = {"adapter": str(root / "outputs" / "adapters" / TASK / "vop-0")}
    config = {**asdict(model_config(tiny_world.params(root), root)), **changes}
    model = RankingModel()
    model.load_context(PythonModelContext(artifacts, config))
    return model


def test_texts_are_ranked(root: Path) -> None:
    model = loaded(root)
    table = model.predict(None, pd.DataFrame({"text": ["a red square", "a blue square"]}), {"top": 2})
    assert list(table.columns) == COLUMNS
    assert list(table["rank"]) == [1, 2, 1, 2]
    assert list(table["text"]) == ["a red square"] * 2 + ["a blue square"] * 2
    assert len(model.predict(None, pd.DataFrame(["a red square"]))) == 3


@pytest.mark.parametrize("cell", [None, np.nan, pd.NA, 7])
def test_a_cell_that_is_no_text_is_refused_with_its_row(root: Path, cell: object) -> None:
    with pytest.raises(RegistryError, match=r"predict, row 2: not a text"):
        loaded(root).predict(None, pd.DataFrame({"text": ["a red square", cell, "a blue square"]}))


def test_an_empty_cell_is_refused_through_mlflow_too(root: Path, tmp_path: Path) -> None:
    """MLflow converts the input before the model sees it."""
    code = Path(components.search.pyfunc.__file__)
    adapter = root / "outputs" / "adapters" / TASK / "vop-0"
    config = model_config(tiny_world.params(root), root)
    save_model(tmp_path / "model", code=code, adapter=adapter, config=config)
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert len(model.predict(["a red square", "nan"])) == 6
    ranked = list(model.predict(["a red square"], {"top": 8})["video_id"])
    without = list(model.predict(["a red square"], {"top": 8, "minus": "a red square moves right"})["video_id"])
    assert sorted(ranked) == sorted(without)
    assert ranked != without
    left = model.predict(["a red square"], {"top": 2, "where": "id in ['test004', 'test006', 'test001']"})
    assert list(left["video_id"]) == [name for name in ranked if name in ("test004", "test006", "test001")][:2]
    with pytest.raises(Exception, match="no such column; found 'year'"):
        model.predict(["a red square"], {"where": "year > 2000"})
    for table in (
        pd.DataFrame({"text": ["a red square", None]}),
        pd.DataFrame({"text": ["a red square", np.nan]}),
        pd.DataFrame({"text": pd.array(["a red square", None], dtype="string")}),
        [{"text": "a red square"}, {"text": None}],
        ["a red square", None],
        ["a red square", ""],
    ):
        with pytest.raises(Exception, match=r"row 2: not a text|text 2: the text is empty"):
            model.predict(table)


def test_other_faults_are_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RegistryError, match="wrong input column"):
        loaded(root).predict(None, pd.DataFrame({"query": ["a red square"]}))
    with pytest.raises(ReelTuneError, match="text 2: the text is empty"):
        loaded(root).predict(None, pd.DataFrame({"text": ["a red square", " "]}))
    with pytest.raises(ConfigError, match=r"(?s)model_config of the version.*tops: unknown key"):
        loaded(root, tops=3)
    monkeypatch.setenv("REELTUNE_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(RegistryError, match="set REELTUNE_ROOT"):
        loaded(root).predict(None, pd.DataFrame({"text": ["a red square"]}))
