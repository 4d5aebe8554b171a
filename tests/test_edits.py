"""An edit reruns what uses it and nothing else: real DVC on a copy of this project, after real edits of its files.

The outputs are placeholders, since DVC compares hashes and does not look inside; the code's hashes are the real ones.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.cli import main
from dvc.repo import Repo
from ruamel.yaml import YAML

from components import storage

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("shapes-clips", "shapes-stories")
METHODS = ("zero_shot", "full", "vop", "mv_adapter")


def run(folder: Path, *command: str) -> str:
    """Runs a command in the copy, with the copy's own code."""
    env = {**os.environ, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(folder: Path, *arguments: str) -> None:
    """Runs DVC in the copy, and in this process: another one would import it for seconds."""
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("DVC_NO_ANALYTICS", "1")
        assert main(list(arguments)) == 0


def told(folder: Path, *arguments: str) -> str:
    """What DVC prints."""
    return run(folder, sys.executable, "-m", "dvc", *arguments)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree in which every stage is up to date."""
    folder = tmp_path_factory.mktemp("edits") / "project"
    names = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in names:
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    run(folder, "git", "init", "--quiet")
    (folder / "dvc.lock").unlink(missing_ok=True)
    refresh(folder)
    stages = YAML(typ="safe").load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for stage in stages.values():
        for kind in ("outs", "metrics", "plots", "deps"):  # a stage may depend on one file of another's folder
            for out in stage.get(kind, ()):
                for path in expanded(next(iter(out)) if isinstance(out, dict) else out):
                    if not (folder / path).exists():
                        place = folder / path if "." in Path(path).name else folder / path / "placeholder"
                        place.parent.mkdir(parents=True, exist_ok=True)
                        place.write_text("placeholder\n", encoding="utf-8")
    for path in expanded("outputs/captions/${item.task}/for-${item.method}.json"):
        (folder / path).write_text("placeholder\n", encoding="utf-8")
    dvc(folder, "commit", "--quiet", "--force")
    assert stale(folder) == set()
    assert "up to date" in told(folder, "status")
    return folder


def expanded(path: str) -> list[str]:
    """Every path that a path with matrix variables means."""
    return sorted(
        path.replace("${item.task}", task).replace("${item.method}", method).replace("${item.seed}", "0")
        for task in TASKS
        for method in METHODS
    )


def stale(folder: Path) -> set[str]:
    """The stages that ``dvc status`` names. A process of the command would import DVC again for each of them."""
    with contextlib.chdir(folder), Repo() as project:
        return {name for name, changes in project.status().items() if changes}


@pytest.fixture
def edited(copy: Path) -> Iterator[Path]:
    """The copy, which gets its files back after the test."""
    kept = copy.parent / "kept"
    shutil.copytree(copy, kept, ignore=shutil.ignore_patterns(".git", ".dvc", "__pycache__", ".venv"))
    yield copy
    new = [*copy.rglob("*.py"), *copy.glob("weights/*"), *copy.glob("outputs/**/*.*")]
    for path in [path for path in new if not (kept / path.relative_to(copy)).exists()]:
        path.unlink()
    shutil.copytree(kept, copy, dirs_exist_ok=True)
    shutil.rmtree(kept)


def refresh(folder: Path) -> None:
    """Hashes the code and the backbones again, as ``dvc repro`` does first."""
    dvc(folder, "repro", "--quiet", "--single-item", "fingerprints", "backbones")


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)


def trainings(*methods: str) -> set[str]:
    """Names of the stages that train, and evaluate, these methods."""
    return {f"{stage}@{task}-{method}-0" for stage in ("train", "evaluate") for task in TASKS for method in methods}


def test_comments_and_docstrings_rerun_nothing(edited: Path) -> None:
    for name in ("benchmarks/lsmdc", "training/watchdog", "methods/vop", "search/settings", "ingest/run"):
        path = edited / f"components/{name}.py"
        path.write_text(path.read_text(encoding="utf-8").replace('"""', '"""More words. ', 1), encoding="utf-8")
        append(path, "\n# A comment.\n")
    assert stale(edited) == {"fingerprints"}
    refresh(edited)
    assert stale(edited) == set()


def test_code_of_a_reader_reruns_the_ingest_of_its_task(edited: Path) -> None:
    append(edited / "components/benchmarks/msrvtt.py", "\nUNUSED = 1\n")
    refresh(edited)
    assert stale(edited) == {"ingest@shapes-clips"}


def test_code_that_nothing_uses_reruns_nothing(edited: Path) -> None:
    """A reader that no task uses, new plug-ins, and what only watches or carries work."""
    for name in ("benchmarks/lsmdc", "training/watchdog", "heartbeat", "cluster"):
        append(edited / f"components/{name}.py", "\nUNUSED = 1\n")
    for kind, registry in (("benchmarks", "BENCHMARKS"), ("methods", "METHODS")):
        (edited / f"components/{kind}/brand_new.py").write_text("NEW = 1\n", encoding="utf-8")
        line = f'\n{registry}.register("brand_new", "components.{kind}.brand_new:NEW")\n'
        append(edited / f"components/{kind}/__init__.py", line)
    refresh(edited)
    assert stale(edited) == set()


def test_code_of_settings_reruns_the_stages_that_read_them(edited: Path) -> None:
    append(edited / "components/search/settings.py", "# A comment.\n")
    refresh(edited)
    assert stale(edited) == set()
    append(edited / "components/search/settings.py", "\nUNUSED = 1\n")
    refresh(edited)
    assert stale(edited) == {f"register@{task}" for task in TASKS}  # the registered model searches with its defaults


def test_code_of_a_method_reruns_its_trainings_and_what_uses_them(edited: Path) -> None:
    append(edited / "components/methods/mv_adapter.py", "\nUNUSED = 1\n")
    refresh(edited)
    users = {f"{stage}@{task}" for stage in ("register", "index") for task in TASKS}
    assert stale(edited) == trainings("mv_adapter") | users


def test_code_of_the_report_and_of_the_index_reruns_these_stages(edited: Path) -> None:
    append(edited / "components/report/page.html", "<!-- edited -->\n")
    append(edited / "components/search/index.py", "\nUNUSED = 1\n")
    refresh(edited)
    assert {"report", *(f"index@{task}" for task in TASKS)} <= stale(edited)
    assert not {name for name in stale(edited) if name.startswith(("ingest", "train", "evaluate"))}


def test_code_of_ingest_reruns_every_ingest(edited: Path) -> None:
    append(edited / "components/ingest/sampling.py", "\nUNUSED = 1\n")
    refresh(edited)
    assert stale(edited) == {f"ingest@{task}" for task in TASKS}


def test_code_of_the_training_step_reruns_every_training(edited: Path) -> None:
    append(edited / "components/training/step.py", "\nUNUSED = 1\n")
    refresh(edited)
    assert stale(edited) == {name for name in trainings(*METHODS) if name.startswith("train@")}


def change(folder: Path, key: str, **values: object) -> None:
    """Replaces values in the block at a dotted key of params.yaml."""
    yaml = YAML()
    tree = yaml.load((folder / "params.yaml").read_text(encoding="utf-8"))
    functools.reduce(lambda block, name: block[name], key.split("."), tree).update(values)
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(tree, stream)


def test_another_machine_reruns_nothing(edited: Path) -> None:
    change(edited, "execution", workers=8, cache_mib=65536, timeout_seconds=900.0, checkpoint_steps=50)
    change(edited, "ray", num_cpus=64)
    assert stale(edited) == set()


def test_a_setting_that_decides_reruns_the_trainings(edited: Path) -> None:
    change(edited, "training", epochs=7)
    assert stale(edited) == {name for name in trainings(*METHODS) if name.startswith("train@")}


def users_of_the_backbone(task: str) -> set[str]:
    """Names of the stages of a task that load its backbone."""
    run = {f"{stage}@{task}-{method}-0" for stage in ("train", "evaluate") for method in METHODS}
    return run | {f"register@{task}", f"index@{task}"}


def test_the_backbone_of_one_task_reruns_its_stages_and_no_others(edited: Path) -> None:
    shutil.copyfile(edited / "models/mini.safetensors", edited / "weights/mine.safetensors")
    own = {"model": "mini", "pretrained": "weights/mine.safetensors"}
    change(edited, "tasks.shapes-stories", backbone=own)
    assert stale(edited) == {"fingerprints", "backbones"}
    refresh(edited)
    assert stale(edited) == users_of_the_backbone("shapes-stories")
    dvc(edited, "commit", "--quiet", "--force")
    change(edited, "backbone", quick_gelu=True)
    refresh(edited)
    assert stale(edited) == users_of_the_backbone("shapes-clips"), "the project's backbone is not that of the stories"
    dvc(edited, "commit", "--quiet", "--force")
    with (edited / "weights/mine.safetensors").open("ab") as stream:
        stream.write(b"other weights")
    (edited / "weights/of_no_task.safetensors").write_bytes(b"weights")
    refresh(edited)
    assert stale(edited) == users_of_the_backbone("shapes-stories"), "the same settings, another file"


def test_a_block_that_repeats_the_projects_backbone_reruns_nothing(edited: Path) -> None:
    same = {"model": "mini", "pretrained": "models/mini.safetensors"}
    change(edited, "tasks.shapes-stories", backbone=same)
    refresh(edited)
    assert stale(edited) == set()


def test_options_of_a_task_rerun_its_ingest(edited: Path) -> None:
    change(edited, "tasks.shapes-stories", options={"split": "val_1"})
    refresh(edited)
    assert stale(edited) == {"ingest@shapes-stories"}


def test_captions_of_frames_rerun_the_trainings_that_use_them(edited: Path) -> None:
    change(edited, "tasks.shapes-clips", captions={"table": "captions.csv"})
    refresh(edited)
    assert stale(edited) == {"captions@shapes-clips"}
    folder = edited / "outputs/captions/shapes-clips"
    (folder / "captions.parquet").write_bytes(b"captions")
    (folder / "for-vop.json").write_text("another fingerprint\n", encoding="utf-8")
    assert stale(edited) == {"captions@shapes-clips", "train@shapes-clips-vop-0"}


def test_what_is_only_searched_reruns_no_training(edited: Path) -> None:
    frames = edited / "outputs/frames/shapes-clips"
    (frames / "manifest.parquet").write_text("windows or facts that changed")
    assert stale(edited) == {"ingest@shapes-clips", "index@shapes-clips"}
    (frames / "training.json").write_text("other captions or frames")
    users = {name for name in trainings(*METHODS) if "@shapes-clips" in name}
    assert stale(edited) == users | {f"{stage}@shapes-clips" for stage in ("ingest", "captions", "index")}


def test_metrics_are_compared_with_those_of_the_last_commit(edited: Path) -> None:
    """The way that the README shows, with metrics in place of the placeholders and without a training."""

    def results(recall: float) -> None:
        # Through a rename, as the report stage writes it: the old file is linked to DVC's cache.
        metrics = json.dumps({"shapes-clips": {"vop": {"R@1": recall}}})
        storage.write_bytes(edited / "reports/metrics.json", metrics.encode())
        dvc(edited, "commit", "--quiet", "--force", "report")

    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    results(54.5)
    run(edited, "git", "add", "dvc.yaml", "params.yaml", "dvc.lock", "models/mini.json")
    run(edited, "git", *who, "commit", "--quiet", "-m", "The demo's results")
    results(61.0)
    key = "shapes-clips.vop.R@1"
    found = json.loads(told(edited, "metrics", "diff", "--json"))
    assert found["reports/metrics.json"][key] == {"old": 54.5, "new": 61.0, "diff": 6.5}
    table = told(edited, "exp", "show", "--csv").splitlines()
    column = table[0].split(",").index(key)
    assert [row.split(",")[column] for row in table[1:3]] == ["61.0", "54.5"]
