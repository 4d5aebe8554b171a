"""The alias in the registry is the one source of who is champion, and a project keeps its registry when it moves."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import tiny_world
import trained_world
from empty_store import write_empty_store
from mlflow.tracking._tracking_service import utils as tracking_utils
from registered_world import model_config
from trained_world import TASK

from components.adapters.card import read_card
from components.adapters.file import load_adapter
from components.errors import RegistryError
from components.frames.store import FrameStore
from components.layout import Layout
from components.search import index as indexes
from components.search.query import Searcher, shared_backbone
from components.search.source import of_champion
from components.tracking.alias import alias_holder
from components.tracking.champion import current_champion
from components.tracking.evaluated import read_evaluated
from components.tracking.record import write_registry_record
from components.tracking.registry import ModelRegistry, RegisteredVersion
from components.tracking.store import connect, experiment_id

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "components" / "search" / "pyfunc.py"


@pytest.fixture(autouse=True)
def _without_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("REELTUNE_ROOT", raising=False)
    # MLflow remembers places of artifacts by the ids of runs and models, which the copies of a project share. A script
    # opens one project only.
    tracking_utils._artifact_repos_cache.clear()


def register(root: Path, *methods: str, retire: str | None = None) -> ModelRegistry:
    """What the register stage does, in this process."""
    params, layout = tiny_world.params(root), Layout(root)
    registry = ModelRegistry(connect(root, params.tracking), root, params.tracking, TASK)
    versions: list[RegisteredVersion] = []
    for method in methods:
        adapter = read_evaluated(root, TASK, method, 0)
        versions.append(registry.register(adapter, code=CODE, config=model_config(params, root), provenance={}))
    if retire:
        registry.retire(retire)
    outcomes = registry.promote(versions)
    champion = registry.export_champion(layout.champion(TASK))
    write_registry_record(layout.champion_record(TASK), registry.record(champion, versions, outcomes))
    return registry


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two versions. The second one, of mv_adapter, is the champion."""
    root = tmp_path_factory.mktemp("ready") / "project"
    root.mkdir()
    trained_world.write_trained(root)
    write_empty_store(root)
    trained_world.set_metric(root, "vop", 0, 40.0)
    trained_world.set_metric(root, "mv_adapter", 0, 60.0)
    register(root, "vop", "mv_adapter")
    return root


@pytest.fixture
def root(ready: Path, tmp_path: Path) -> Path:
    """A copy of the project in another folder. The first one goes on existing."""
    return Path(shutil.copytree(ready, tmp_path / "a copy"))


def files(root: Path) -> dict[str, tuple[int, int]]:
    found = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def exported(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Layout(root).champion(TASK).iterdir()}


def loaded(root: Path) -> Any:
    """The champion as the README loads it."""
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
    mlflow.set_registry_uri(f"sqlite:///{root}/mlflow.db")  # it no longer follows once an earlier call has set it
    try:
        return mlflow.pyfunc.load_model(f"models:/{TASK}@champion")
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow sets it, for processes that it starts


def test_a_copied_project_works_and_leaves_the_first_one_alone(
    ready: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, champion = files(ready), exported(root)
    with caplog.at_level(logging.WARNING):
        registry = register(root, "vop", "mv_adapter")
    assert "the project was moved" in caplog.text
    assert files(ready) == first
    assert exported(root) == champion
    client = registry.client
    for number in ("1", "2"):
        version = client.get_model_version(TASK, number)
        assert str(version.source).startswith((root / "mlartifacts").as_uri())
        assert client.get_run(str(version.run_id)).info.artifact_uri.startswith((root / "mlartifacts").as_uri())
    assert len(client.search_model_versions(f"name = '{TASK}'")) == 2
    caplog.clear()
    connect(root, tiny_world.params(root).tracking)
    assert caplog.messages == []
    # The loaded model looks for its videos here, too, not where the version was registered.
    shutil.rmtree(Layout(root).frames(TASK))
    tiny_world.write_store(root, tiny_world.videos(24, 8, 5))
    answer = loaded(root).predict(["a red square"], params={"top": 100})
    assert len(answer) == 5


def test_a_project_whose_old_folder_is_gone_works(ready: Path, tmp_path: Path) -> None:
    once, now = tmp_path / "once", tmp_path / "now"
    shutil.copytree(ready, once)
    register(once, "vop", "mv_adapter")
    once.rename(now)
    tracking_utils._artifact_repos_cache.clear()
    registry = register(now, "vop", "mv_adapter", retire="a test")
    assert registry.champion()[0] == "2"  # type: ignore[index]
    assert not once.exists()


def test_artifacts_that_stayed_in_the_old_folder_are_asked_for(ready: Path, root: Path) -> None:
    shutil.rmtree(root / "mlartifacts")
    first, champion = files(ready), exported(root)
    with pytest.raises(RegistryError, match="copy them: cp -r ") as refused:
        register(root, "vop", "mv_adapter")
    assert files(ready) == first
    assert exported(root) == champion
    cure = str(refused.value).rpartition("copy them: ")[2]
    subprocess.run(cure, shell=True, check=True)
    register(root, "vop", "mv_adapter")
    assert exported(root) == champion


def test_artifacts_that_are_gone_are_put_back(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    register(root, "vop", "mv_adapter")
    champion = exported(root)
    shutil.rmtree(root / "mlartifacts")
    with caplog.at_level(logging.WARNING):
        register(root, "vop", "mv_adapter")
    assert "its files are gone and are put back" in caplog.text
    assert exported(root) == champion
    assert len(loaded(root).predict(["a red square"])) == 3


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_champion_whose_files_are_lost_is_one_error_whose_cure_cures(root: Path, damage: str) -> None:
    registry = register(root, "vop", "mv_adapter")
    champion, record = exported(root), Layout(root).champion_record(TASK).read_bytes()
    # Its training is gone, so only the registry has it.
    folder = Path(str(registry.client.get_model_version(TASK, "2").source).removeprefix("file://").replace("%20", " "))
    if damage == "gone":
        shutil.rmtree(folder)
    else:
        weights = folder / "artifacts" / "adapter" / "adapter.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(RegistryError, match=rf"version 2 .*(are gone|is damaged).*register\.py --task {TASK} --retire"):
        register(root, "vop")
    assert exported(root) == champion
    assert Layout(root).champion_record(TASK).read_bytes() == record
    assert register(root, "vop", retire="version 2 is lost").champion()[0] == "1"  # type: ignore[index]
    assert exported(root) != champion


def test_an_alias_moved_by_hand_is_obeyed(root: Path) -> None:
    params, layout = tiny_world.params(root), Layout(root)
    assert current_champion(layout, params.tracking, TASK).champion.version == "2"
    connect(root, params.tracking).set_registered_model_alias(TASK, "champion", "1")
    assert alias_holder(root, params.tracking, TASK) == "1"
    current = current_champion(layout, params.tracking, TASK)
    assert current.note == "the alias `champion` was moved from version 2 to 1 after `register` ran"
    source = of_champion(layout, current.champion)
    assert (source.version, source.method, source.seed) == ("1", "vop", 0)
    assert source.sha256 == read_evaluated(root, TASK, "vop", 0).card.sha256
    connect(root, params.tracking).delete_registered_model_alias(TASK, "champion")
    with pytest.raises(RegistryError, match=r"no version has the alias.*register\.py --task tiny"):
        current_champion(layout, params.tracking, TASK)


def test_an_index_of_an_earlier_champion_says_so_and_its_cure_cures(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params, layout = tiny_world.params(root), Layout(root)

    def make_index(version: str, method: str) -> None:
        adapter, store = layout.adapter(TASK, method, 0), FrameStore(layout.frames(TASK))
        loaded = load_adapter(adapter, shared_backbone(params.backbone, root))
        made = indexes.build(loaded, store, split="test", adapter_sha256=read_card(adapter).sha256, batch_size=8)
        about = {"version": version, "method": method, "seed": 0, "split": "test", "store": store.fingerprint}
        indexes.write(made, layout.index(TASK), adapter, about)

    make_index("1", "vop")
    assert Searcher.of(root, params, TASK).search("a red square", top=1)
    assert (
        f"made with version 1, but version 2 is the champion: run python pipelines/index.py --task {TASK}"
        in caplog.text
    )
    caplog.clear()
    make_index("2", "mv_adapter")
    Searcher.of(root, params, TASK)
    connect(root, params.tracking).set_registered_model_alias(TASK, "champion", "1")
    assert "champion" not in caplog.text
    Searcher.of(root, params, TASK)
    assert "made with version 2, but version 1 is the champion" in caplog.text


def test_a_registry_that_is_away_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, layout = tiny_world.params(root), Layout(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    current = current_champion(layout, params.tracking, TASK)
    assert current.champion.version == "2"
    assert "the registry cannot be asked" in current.note
    assert "127.0.0.1:9" in current.note
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (root / "mlflow.db").unlink()
    assert current_champion(layout, params.tracking, TASK).note == ""
    assert not (root / "mlflow.db").exists()
    (root / "mlflow.db").write_bytes(b"no database at all" * 100)
    assert "not a database" in current_champion(layout, params.tracking, TASK).note


def test_the_same_adapter_made_twice_at_once_keeps_the_oldest_version(root: Path) -> None:
    """Two machines that looked before either created: no lock excludes them on a tracking server."""
    registry = register(root, "vop", "mv_adapter")
    trained_world.add_adapter(root, tiny_world.params(root), "vop", 5)
    adapter = read_evaluated(root, TASK, "vop", 5)
    config = model_config(tiny_world.params(root), root)
    run = registry._run(adapter, {})
    made = [registry._create(adapter, run, CODE, config) for _ in range(3)]
    assert [str(version.version) for version in made] == ["3", "3", "3"]
    assert len(registry.client.search_model_versions(f"name = '{TASK}'")) == 3


@pytest.mark.slow
def test_three_stages_at_once_make_one_version(ready: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(ready, root, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts", "registry"))
    command = [sys.executable, "pipelines/register.py", "--root", str(root), "--task", TASK, "run.methods=[vop]"]
    stages = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [stage.communicate(timeout=500)[1] for stage in stages]
    assert [stage.returncode for stage in stages] == [0, 0, 0], errors
    client = connect(root, tiny_world.params(root).tracking)
    assert len(client.search_model_versions(f"name = '{TASK}'")) == 1
    assert len(client.search_runs([experiment_id(client, TASK)])) == 1
