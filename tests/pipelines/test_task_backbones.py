"""Two collections on two backbones in one project, the whole way, and what happens when one of them is switched."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import mlflow
import pytest
import tiny_backbone
import tiny_world
import torch
import trained_world
from ruamel.yaml import YAML
from safetensors.torch import save_file

from components.adapters.card import read_card
from components.backbones.load import create
from components.cli import Stage
from components.errors import AdapterError, BackboneError
from components.evaluation.card import read_scorecard
from components.layout import Layout
from components.params import load_params
from components.report import collect, page, tables
from components.report.results import read_results
from components.search.card import read_index_card
from components.search.query import Searcher
from components.tracking.record import read_registry_record
from components.training.job import Job, run

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
OTHER = "other"
SMALL = {"model": "models/small.json", "pretrained": "weights/small.safetensors"}
EXPECTED = {tiny_world.TASK: "mini", OTHER: "small.json"}
METHOD = {"method": "vop", "seed": 0}


def call(script: str, root: Path, task: str, *overrides: str, **arguments: object) -> None:
    """Runs the body of a script in this process, which has imported PyTorch already."""
    spec = importlib.util.spec_from_file_location(f"script_{script}", PIPELINES / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    args = argparse.Namespace(task=task, **arguments)
    module.body(Stage(load_params(root / "params.yaml", overrides), root, args))


def set_backbone(root: Path, block: dict[str, object] | None) -> None:
    """Gives the other task a backbone in params.yaml, or takes it."""
    yaml = YAML()
    tree = yaml.load((root / "params.yaml").read_text(encoding="utf-8"))
    tree["tasks"][OTHER] = {**tree["tasks"][tiny_world.TASK], **({"backbone": block} if block else {})}
    tree["run"] = {"tasks": [tiny_world.TASK, OTHER], "methods": ["vop"], "seeds": [0]}
    with (root / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(tree, stream)


@pytest.fixture(scope="module")
def paths() -> Sequence[str]:
    """Scripts find their neighbour ``_here`` on the import path."""
    import sys

    sys.path.insert(0, str(PIPELINES))
    return sys.path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, paths: Sequence[str]) -> Path:
    """Two tasks, trained, evaluated, registered and indexed, one of them trained by what Ray's workers run."""
    root = tmp_path_factory.mktemp("two")
    tiny_world.write_project(root)
    tiny_world.write_store(root, tiny_world.videos(24, 8, 8), task=OTHER)
    torch.manual_seed(1)
    (root / "weights").mkdir()
    (root / SMALL["model"]).write_text(json.dumps(tiny_backbone.CONFIG))
    save_file(create("small", tiny_backbone.CONFIG).state_dict(), root / SMALL["pretrained"])
    set_backbone(root, {**SMALL})
    params = load_params(root / "params.yaml", ["training.epochs=1"])
    for task in EXPECTED:
        trained_world.add_adapter(root, params, "vop", 0, task)
    job = Job.of(root, params, OTHER, "vop", 0)
    plan = job.plan()
    run(job, plan, torch.device("cpu"), None, None)
    shutil.copytree(Path(job.work_folder(plan.key)) / "adapter", job.adapter_folder, dirs_exist_ok=True)
    for task in EXPECTED:
        call("evaluate", root, task, **METHOD)
        call("register", root, task, retire=None)
        call("index", root, task, adapter=None)
    return root


@pytest.fixture
def project(world: Path, tmp_path: Path) -> Path:
    """A copy whose other task can be switched."""
    return Path(shutil.copytree(world, tmp_path / "project"))


@pytest.mark.slow
@pytest.mark.parametrize("task", EXPECTED)
def test_every_artefact_of_a_task_is_of_its_backbone(world: Path, task: str) -> None:
    layout, name = Layout(world), EXPECTED[task]
    card = read_card(layout.adapter(task, "vop", 0))
    assert card.backbone.model == name
    assert card.extra.backbone == load_params(layout.params).backbone_of(task)
    scorecard = read_scorecard(layout.scorecards(task, "vop", 0), "test").backbone
    assert scorecard == card.backbone == read_index_card(layout.index(task)).backbone
    searcher = Searcher.open(world, task)
    assert searcher.method.spec.model == name
    uri = f"sqlite:///{layout.tracking_database}"
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)  # it no longer follows once an earlier call has set it
    try:
        model = mlflow.pyfunc.load_model(f"models:/{task}@champion")
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow sets it, for processes that it starts
    found = model.predict([{"text": "a red square moves left"}], params={"top": 4})
    assert list(found["video_id"]) == [hit.video_id for hit in searcher.search("a red square moves left", top=4)]
    assert model.unwrap_python_model().searcher.method.spec == searcher.method.spec


@pytest.mark.slow
def test_the_report_states_the_backbone_of_each_task(world: Path, tmp_path: Path) -> None:
    params = load_params(world / "params.yaml")
    content = collect.collect(world, params)
    page.write(tmp_path, content)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "2 adapters on 2 frozen backbones." in html
    first, second = html.split('<h2 id="other">')
    assert "Frozen backbone: mini at 32 pixels (1,377,824 parameters)." in first
    assert "Frozen backbone: small.json at 16 pixels (" in second
    results = read_results(tmp_path / "results.json")
    assert [table.title for table in tables.all_tables(results)][::2] == [
        "tiny: whole test set, on mini", "other: whole test set, on small.json",
    ]  # fmt: skip
    assert "one frozen backbone: mini at 32 pixels (1,377,824 parameters)." in page.render(
        collect.collect(world, load_params(world / "params.yaml", ["run.tasks=[tiny]"])), "", ""
    )


@pytest.mark.slow
def test_a_switch_concerns_one_task_and_its_champion_answers_until_it_is_beaten(
    project: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    layout, text = Layout(project), "a red square moves left"
    before = {task: [hit.video_id for hit in Searcher.open(project, task).search(text)] for task in EXPECTED}
    keys = {task: Job.of(project, load_params(layout.params), task, "vop", 0).plan().key for task in EXPECTED}
    set_backbone(project, None)
    params = load_params(layout.params)
    after = {task: Job.of(project, params, task, "vop", 0).plan().key for task in EXPECTED}
    assert after[tiny_world.TASK] == keys[tiny_world.TASK]
    assert after[OTHER] != keys[OTHER]

    caplog.clear()
    with caplog.at_level(logging.WARNING, "components.search"):
        assert [hit.video_id for hit in Searcher.open(project, OTHER).search(text)] == before[OTHER]
    assert "was trained on models/small.json (weights/small.safetensors), which is used here; backbone is mini" in (
        caplog.text
    )
    with pytest.raises(
        AdapterError, match=r"bound to another backbone.*`dvc repro`.*small\.json: tasks\.other\.backbone"
    ):
        call("evaluate", project, OTHER, **METHOD)

    trained_world.add_adapter(project, params, "vop", 0, OTHER)
    call("evaluate", project, OTHER, **METHOD)
    for value, champion in ((0.0, "small.json"), (100.0, "mini")):
        trained_world.set_metric(project, "vop", 0, value, OTHER)
        call("register", project, OTHER, retire=None)
        decision = read_registry_record(layout.champion_record(OTHER)).decisions[0].reason
        if champion == "small.json":
            assert "its backbone is mini, the champion's small.json" in decision
        capsys.readouterr()
        call("index", project, OTHER, adapter=None)
        assert ("note: the adapter in" in capsys.readouterr().out) == (champion == "small.json")
        assert read_index_card(layout.index(OTHER)).backbone.model == champion
        assert Searcher.open(project, OTHER).method.spec.model == champion
    caplog.clear()
    assert [hit.video_id for hit in Searcher.open(project, tiny_world.TASK).search(text)] == before[tiny_world.TASK]


@pytest.mark.slow
def test_a_champion_whose_backbone_is_gone_is_retired_by_the_cure(project: Path) -> None:
    layout = Layout(project)
    set_backbone(project, None)
    (project / SMALL["pretrained"]).unlink()
    fault = r"other/adapter\.json: adapter is bound to another backbone than the task's .*small\.safetensors"
    with pytest.raises(AdapterError, match=rf"{fault}.*register\.py --task other --retire 'another backbone'"):
        Searcher.open(project, OTHER)
    trained_world.add_adapter(project, load_params(layout.params), "vop", 0, OTHER)
    trained_world.set_metric(project, "vop", 0, 0.0, OTHER)
    call("register", project, OTHER, retire="another backbone")
    call("index", project, OTHER, adapter=None)
    assert Searcher.open(project, OTHER).method.spec.model == "mini"


@pytest.mark.slow
def test_an_adapter_of_another_task_brings_its_backbone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = Layout(project).adapter(tiny_world.TASK, "vop", 0)
    call("index", project, OTHER, adapter=str(adapter))
    assert "was trained on mini (models/mini.safetensors), which is used here; tasks.other.backbone is small.json" in (
        capsys.readouterr().out
    )
    assert Searcher.open(project, OTHER).method.spec.model == "mini"


@pytest.mark.slow
def test_a_fault_of_a_tasks_backbone_names_its_key(project: Path) -> None:
    set_backbone(project, {**SMALL, "model": "ViT-B-33"})
    job = Job.of(project, load_params(project / "params.yaml"), OTHER, "vop", 0)
    for opened in (job.plan, lambda: Searcher.open(project, OTHER), lambda: call("evaluate", project, OTHER, **METHOD)):
        with pytest.raises(BackboneError, match=r"^tasks\.other\.backbone\.model: no such backbone; found 'ViT-B-33'"):
            opened()
    assert Searcher.open(project, tiny_world.TASK).method.spec.model == "mini"
    project_wide = load_params(project / "params.yaml", ["backbone.pretrained=nowhere.safetensors"])
    with pytest.raises(BackboneError, match=r"^backbone\.pretrained: no such weights"):
        Job.of(project, project_wide, tiny_world.TASK, "vop", 0).plan()
