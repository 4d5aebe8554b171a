from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_world
import trained_world
from empty_store import write_empty_store
from registered_world import model_config
from scripts import run_script
from trained_world import TASK

from components.errors import AdapterError, RegistryError
from components.tracking.evaluated import read_evaluated
from components.tracking.record import Champion, read_registry_record, write_registry_record
from components.tracking.registry import ModelRegistry
from components.tracking.store import MlflowClient, connect

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, root: Path, *arguments: str) -> str:
    """Runs a stage and returns its standard output."""
    done = run_script(f"{script}.py", root, "--task", TASK, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, trained, scored, and registered by the stage."""
    root = tmp_path_factory.mktemp("registered")
    trained_world.write_trained(root)
    trained_world.set_metric(root, "vop", 0, 40.0)
    trained_world.set_metric(root, "mv_adapter", 0, 60.0)
    run("register", root)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods with two seeds each, and an empty store."""
    root = tmp_path_factory.mktemp("trained")
    trained_world.write_trained(root, seeds=(0, 1))
    write_empty_store(root)
    return root


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Callable[..., Any]:
    """Registers in this process, in a copy of ``trained`` with a separate store."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    params = tiny_world.params(tmp_path)
    code = ROOT / "components" / "search" / "pyfunc.py"

    def register(*names: tuple[str, int, float], **changes: Any) -> tuple[Any, dict[str, bool]]:
        registry = ModelRegistry(connect(tmp_path, params.tracking), tmp_path, params.tracking, TASK)
        versions = []
        for method, seed, value in names:
            trained_world.set_metric(tmp_path, method, seed, value, **changes)
            adapter = read_evaluated(tmp_path, TASK, method, seed)
            versions.append(registry.register(adapter, code=code, config=model_config(params, tmp_path), provenance={}))
        return registry, {f"{one.method}-{one.seed}": one.promoted for one in registry.promote(versions)}

    return register


def client_of(root: Path) -> MlflowClient:
    return connect(root, tiny_world.params(root).tracking)


def result_of(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "outputs" / "registry" / f"{TASK}.json").read_text())
    return content


def test_the_better_adapter_is_champion_with_its_reason(world: Path) -> None:
    result, client = result_of(world), client_of(world)
    assert result["champion"]["method"] == "mv_adapter"
    held = client.get_model_version_by_alias(TASK, "champion")
    assert str(held.version) == result["champion"]["version"]
    assert held.tags["decision"] == "promoted"
    assert "no champion yet" in held.tags["decision_reason"]
    other = next(line for line in result["decisions"] if line["method"] == "vop")
    assert not other["promoted"]
    assert "t2v_R@1 is 40.00, the champion's 60.00" in other["reason"]


def test_a_version_has_lineage_and_is_an_adapter_only(world: Path) -> None:
    client = client_of(world)
    held = client.get_model_version_by_alias(TASK, "champion")
    stored = client.get_run(str(held.run_id))
    assert stored.info.status == "FINISHED"
    assert stored.data.metrics["scorecard/val/t2v_R1"] == 60.0
    assert held.tags["adapter_sha256"] == result_of(world)["champion"]["sha256"]
    folder = Path(str(held.source).removeprefix("file://"))
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    weights = world / "outputs" / "adapters" / TASK / "mv_adapter-0" / "adapter.safetensors"
    assert files["artifacts/adapter/adapter.safetensors"] == weights.stat().st_size
    assert sum(files.values()) - weights.stat().st_size < 40_000
    assert {"scorecards/val.json", "scorecards/test.json"} <= set(files)


@pytest.mark.slow
def test_registering_again_changes_nothing(world: Path) -> None:
    before, client = result_of(world), client_of(world)
    versions = client.search_model_versions(f"name = '{TASK}'")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    run("register", world)
    assert result_of(world) == before
    assert len(client.search_model_versions(f"name = '{TASK}'")) == len(versions) == 2
    assert len(client.search_runs([runs[0].info.experiment_id])) == len(runs) == 2


@pytest.mark.slow
def test_a_fresh_process_and_the_search_script_rank_videos(world: Path) -> None:
    code = (
        "import json, sys, mlflow, pandas as pd\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        f"model = mlflow.pyfunc.load_model('models:/{TASK}@champion')\n"
        "texts = ['a red square moves right', 'a blue square moves up']\n"
        "frame = model.predict(pd.DataFrame({'text': texts}), params={'top': 3})\n"
        "assert model.predict(texts, params={'top': 3}).equals(frame)\n"
        "assert model.predict([{'text': text} for text in texts], params={'top': 3}).equals(frame)\n"
        "print(frame.to_json(orient='records'))\n"
    )
    command = [sys.executable, "-c", code, client_of(world).tracking_uri]
    answers = []
    for stage in (None, "index"):
        if stage:
            run(stage, world)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=world, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert ("no index of this adapter" in done.stderr) == (stage is None)
        assert "UserWarning" not in done.stderr
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    rows = answers[0]
    assert [row["rank"] for row in rows] == [1, 2, 3, 1, 2, 3]
    assert rows[0]["text"] == "a red square moves right"
    assert rows[0]["uri"] == f"data/tiny/videos/{rows[0]['video_id']}.mp4"
    assert rows[0]["start_seconds"] == 0.0 < rows[0]["end_seconds"]
    assert [row["video_id"] for row in answers[1]] == [row["video_id"] for row in rows]
    assert [row["score"] for row in answers[1]] == pytest.approx([row["score"] for row in rows], abs=1e-6)
    # The search script reads the same index.
    lines = run("search", world, "--top", "2", "a red square moves right").splitlines()
    assert lines[0].split() == ["rank", "score", "percentile", "span", "video", "file"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]
    assert lines[1].split()[3].startswith("00:00.0-00:0")


def test_a_challenger_within_the_margin_does_not_move_the_alias(copy: Callable[..., Any]) -> None:
    registry, _ = copy(("vop", 0, 50.0))
    assert registry.champion()[0] == "1"
    _, decisions = copy(("vop", 0, 50.0), ("mv_adapter", 0, 50.5))
    assert decisions == {"vop-0": True, "mv_adapter-0": False}
    registry, decisions = copy(("vop", 0, 50.0), ("mv_adapter", 0, 50.5), ("mv_adapter", 1, 51.5), ("vop", 1, 51.2))
    assert decisions == {"vop-0": False, "mv_adapter-0": False, "mv_adapter-1": True, "vop-1": False}
    held = registry.champion()[0]
    assert registry.client.get_model_version(TASK, held).tags["seed"] == "1"


def test_another_protocol_is_refused_until_the_champion_retires(copy: Callable[..., Any]) -> None:
    registry, _ = copy(("vop", 0, 50.0))
    _, decisions = copy(("mv_adapter", 0, 90.0), protocol={"benchmark": "other"})
    assert decisions == {"mv_adapter-0": False}
    assert "protocol.benchmark: other / msrvtt" in registry.client.get_model_version(TASK, "2").tags["decision_reason"]
    registry.retire("new validation split")
    assert "new validation split" in registry.client.get_model_version(TASK, "1").tags["decision_reason"]
    _, decisions = copy(("mv_adapter", 0, 90.0), protocol={"benchmark": "other"})
    assert decisions == {"mv_adapter-0": True}
    registry.retire("again")
    with pytest.raises(RegistryError, match="no version has the alias"):
        registry.retire("nobody left")


def test_an_earlier_champion_is_exported_from_the_registry(copy: Callable[..., Any], tmp_path: Path) -> None:
    registry, _ = copy(("vop", 0, 50.0))
    folder = tmp_path / "outputs" / "adapters" / TASK / "vop-0"
    weights = (folder / "adapter.safetensors").read_bytes()
    trained_world.add_adapter(tmp_path, tiny_world.params(tmp_path), "vop", 0)  # same seed: the same adapter
    assert (folder / "adapter.safetensors").read_bytes() == weights
    (folder / "adapter.safetensors").unlink()
    champion = registry.export_champion(tmp_path / "champion")
    assert (tmp_path / "champion" / "adapter.safetensors").read_bytes() == weights
    assert sorted(path.name for path in (tmp_path / "champion").iterdir()) == ["adapter.json", "adapter.safetensors"]
    held = registry.client.get_model_version(TASK, "1")
    sha256 = hashlib.sha256(weights).hexdigest()
    assert champion == Champion("vop", 0, "1", held.run_id, sha256, "champion")


@pytest.mark.parametrize(
    ("file", "error"),
    [
        ("adapters/{}/adapter.json", AdapterError),
        ("adapters/{}/training.json", RegistryError),
        ("scorecards/{}/val.json", RegistryError),
        ("scorecards/{}/test.json", RegistryError),
    ],
)
def test_a_missing_file_is_named(trained: Path, tmp_path: Path, file: str, error: type[Exception]) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "outputs" / file.format(f"{TASK}/vop-0")
    path.unlink()
    with pytest.raises(error, match=f"{re.escape(str(path))}: missing"):
        read_evaluated(tmp_path, TASK, "vop", 0)


def test_the_identity_is_that_of_older_releases(trained: Path) -> None:
    adapter = read_evaluated(trained, TASK, "mv_adapter", 1)
    card = json.loads((adapter.folder / "adapter.json").read_text())
    fields = ("sha256", "method", "settings", "backbone", "frames", "words")
    text = json.dumps({field: card[field] for field in fields}, sort_keys=True)
    assert adapter.identity == hashlib.sha256(text.encode()).hexdigest()


def test_registering_again_replaces_the_code_of_an_older_release(copy: Callable[..., Any]) -> None:
    registry, _ = copy(("vop", 0, 50.0))
    folder = Path(str(registry.client.get_model_version(TASK, "1").source).removeprefix("file://"))
    (folder / "pyfunc.py").write_text("from components.config import Gone\n")
    copy(("vop", 0, 50.0))
    code = ROOT / "components" / "search" / "pyfunc.py"
    assert (folder / "pyfunc.py").read_bytes() == code.read_bytes()
    (folder / "pyfunc.py").write_text("from components.config import Gone\n")
    registry.renew_code("1", code)
    assert (folder / "pyfunc.py").read_bytes() == code.read_bytes()
    assert len(list(folder.rglob("pyfunc.py"))) == 1


@pytest.mark.slow
def test_a_task_with_a_quote_in_its_name_is_registered(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    params = tiny_world.params(tmp_path)
    registry = ModelRegistry(connect(tmp_path, params.tracking), tmp_path, params.tracking, "it's")
    adapter, code = read_evaluated(tmp_path, TASK, "vop", 0), ROOT / "components" / "search" / "pyfunc.py"
    config = model_config(params, tmp_path)
    versions = [registry.register(adapter, code=code, config=config, provenance={}) for _ in range(2)]
    assert [version.number for version in versions] == ["1", "1"]


OLD_RECORD = """{
  "task": "tiny",
  "champion": {
    "method": "mv_adapter",
    "seed": 0,
    "version": "2",
    "run_id": "b595157e",
    "sha256": "7330b904",
    "folder": "outputs/registry/tiny"
  },
  "alias": "champion",
  "candidates": [
    {
      "method": "mv_adapter",
      "seed": 0,
      "version": "2",
      "run_id": "b595157e",
      "sha256": "7330b904",
      "validation": {
        "t2v_R@1": 79.0625,
        "t2v_R@10": 100
      }
    }
  ],
  "decisions": [
    {
      "method": "mv_adapter",
      "seed": 0,
      "version": "2",
      "promoted": true,
      "reason": "no champion yet; t2v_R@1 is 79.06"
    }
  ]
}
"""


def test_a_record_of_release_0_1_is_read_and_written_with_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(OLD_RECORD)
    record = read_registry_record(path)
    assert record.champion.folder == "outputs/registry/tiny"
    write_registry_record(tmp_path / "again.json", record)
    assert (tmp_path / "again.json").read_text() == OLD_RECORD


def test_a_damaged_record_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    with pytest.raises(RegistryError, match=r"missing.*pipelines/register\.py --task tiny"):
        read_registry_record(path)
    path.write_text(OLD_RECORD.replace('"version": "2"', '"version": 2').replace('  "alias": "champion",\n', ""))
    with pytest.raises(RegistryError, match=r"(?s)4 fault\(s\).*champion\.version.*alias: missing"):
        read_registry_record(path)


def test_the_stage_writes_the_record(world: Path) -> None:
    path = world / "outputs" / "registry" / f"{TASK}.json"
    record = read_registry_record(path)
    assert record.task == TASK
    assert record.champion.folder == f"outputs/registry/{TASK}"
    assert (world / record.champion.folder / "adapter.safetensors").is_file()
    assert [one.version for one in record.decisions] == [one.version for one in record.candidates] == ["1", "2"]
    assert record.candidates[0].validation["t2v_R@1"] == 40.0
