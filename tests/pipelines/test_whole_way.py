"""From a clean clone to a searched registry with real `dvc`, on small embedded collections."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
ENV = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "1",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
    "OMP_NUM_THREADS": "1",
}
SMALL = {
    "run": {"tasks": ["shapes-clips"], "methods": ["zero_shot", "mv_adapter"]},
    "training": {"epochs": 1, "batch_size": 16},
    "demo": {
        "clips": {"train_random": 32, "train_groups": 2, "val_random": 4, "val_groups": 1, "test_random": 8,
                  "test_groups": 1},
        "stories": {"train_random": 8, "train_groups": 1, "val_random": 2, "val_groups": 1, "test_random": 2,
                    "test_groups": 1},
    },
}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("shared_ray")]


def call(root: Path, *command: str, fails: bool = False) -> str:
    env = {**os.environ, **ENV, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    return done.stdout + done.stderr


def merge(tree: dict[str, object], changes: dict[str, object]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict):
            merge(tree[key], value)  # type: ignore[arg-type]
        else:
            tree[key] = value


@pytest.fixture(scope="module")
def clone(shared_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree's tracked files with small collections, after `dvc repro`."""
    root = tmp_path_factory.mktemp("whole") / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    yaml = YAML()
    params = yaml.load((root / "params.yaml").read_text())
    merge(params, SMALL)
    with (root / "params.yaml").open("w") as stream:
        yaml.dump(params, stream)
    call(root, "git", "init", "-q", "-b", "main")
    call(root, "git", "add", "-A")
    call(root, "git", "commit", "-qm", "start")
    call(root, "dvc", "repro")
    return root


def changed(root: Path) -> set[str]:
    """Stages that the next `dvc repro` would run."""
    return ran(call(root, "dvc", "repro", "--dry"))


def ran(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


def test_everything_is_there(clone: Path) -> None:
    records = json.loads((clone / "reports/results.json").read_text())
    assert {(r["task"], r["method"], r["seed"]) for r in records} == {
        ("shapes-clips", "zero_shot", 0),
        ("shapes-clips", "mv_adapter", 0),
    }
    assert set(records[0]["metrics"]) == {"all", "temporal"}
    assert (clone / "reports/index.html").stat().st_size > 10_000
    registry = json.loads((clone / "outputs/registry/shapes-clips.json").read_text())
    assert registry["champion"]["method"] == "mv_adapter"


def test_the_committed_backbone_is_not_trained_again(clone: Path) -> None:
    assert (clone / "models/mini.safetensors").read_bytes() == (ROOT / "models/mini.safetensors").read_bytes()
    assert "pretrain" not in changed(clone)


def test_a_second_run_does_nothing(clone: Path) -> None:
    assert changed(clone) == set()
    assert "Data and pipelines are up to date." in call(clone, "dvc", "repro")


def test_a_learning_rate_reruns_its_training_and_no_other(clone: Path) -> None:
    path = clone / "params.yaml"
    before = path.read_text()
    path.write_text(re.sub(r"(\n  mv_adapter:\n\s+lr: )\S+", r"\g<1>0.007", before))
    assert path.read_text() != before
    stages = changed(clone)
    path.write_text(before)
    assert stages == {"fingerprints", "train@shapes-clips-mv_adapter-0"}


def test_an_edit_of_a_method_reruns_its_training_and_what_follows(clone: Path) -> None:
    path = clone / "components/methods/mv_adapter.py"
    before = path.read_text()
    path.write_text(before + "\nEDITED = True\n")
    stages = ran(call(clone, "dvc", "repro"))
    path.write_text(before)
    assert stages >= {
        "fingerprints",
        "train@shapes-clips-mv_adapter-0",
        "evaluate@shapes-clips-mv_adapter-0",
        "report",
    }
    following = {"fingerprints", "train", "evaluate", "register", "index", "report"}
    assert {stage.split("@")[0] for stage in stages} <= following
    assert not any("zero_shot" in stage for stage in stages)
    # DVC's cache has the results of the code before the edit.
    assert not any(stage.startswith("train") for stage in ran(call(clone, "dvc", "repro")))
    assert changed(clone) == set()


def test_metrics_and_plots_are_declared(clone: Path) -> None:
    assert "shapes-clips" in call(clone, "dvc", "metrics", "show")
    call(clone, "dvc", "metrics", "diff")
    call(clone, "dvc", "plots", "show", "-o", str(clone / "reports" / "dvc-plots"))
    assert (clone / "reports/dvc-plots/index.html").exists()


def test_search_prints_ranked_videos(clone: Path) -> None:
    question = ("--task", "shapes-clips", "--all", "a red circle moves right")
    text = call(clone, sys.executable, "pipelines/search.py", *question)
    rows = [line for line in text.splitlines() if re.match(r"\s*\d+\s", line)]
    assert len(rows) == 10
    assert all(".mp4" in row for row in rows)


def test_an_experiment_with_another_setting(clone: Path) -> None:
    call(clone, "git", "add", "-A")
    call(clone, "git", "commit", "-qm", "results")
    call(clone, "dvc", "exp", "run", "-q", "-S", "search.top=3")
    assert "search.top" in call(clone, "dvc", "params", "diff")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["ingest.py", "--task", "shape-clips"], "did you mean 'shapes-clips'"),
        (["ingest.py", "--task", "shapes-clips", "frames.sizes=3"], "did you mean 'size'"),
        (["ingest.py", "--task", "shapes-clips", "tasks.shapes-clips.root=data/none"], "data/none"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(clone: Path, command: list[str], expected: str) -> None:
    text = call(clone, sys.executable, f"pipelines/{command[0]}", *command[1:], fails=True)
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert expected in text
    assert "Traceback" not in text
