"""An edit reruns what uses it and nothing else: real DVC on a copy of this project, after real edits of its files.

The outputs are placeholders, since DVC compares hashes and does not look inside; the code's hashes are the real ones.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("shapes-clips", "shapes-stories")
METHODS = ("zero_shot", "full", "vop", "mv_adapter")


def run(folder: Path, *command: str) -> str:
    """Runs a command in the copy, with the copy's own code."""
    env = {**os.environ, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    """Runs DVC in the copy."""
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
    dvc(folder, "repro", "--quiet", "--single-item", "fingerprints")
    stages = YAML(typ="safe").load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for stage in stages.values():
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, ()):
                for path in expanded(next(iter(out)) if isinstance(out, dict) else out):
                    if not (folder / path).exists():
                        place = folder / path if "." in Path(path).name else folder / path / "placeholder"
                        place.parent.mkdir(parents=True, exist_ok=True)
                        place.write_text("placeholder\n", encoding="utf-8")
    dvc(folder, "commit", "--quiet", "--force")
    assert stale(folder) == set()
    assert "up to date" in dvc(folder, "status")
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
    for path in [path for path in copy.rglob("*.py") if not (kept / path.relative_to(copy)).exists()]:
        path.unlink()
    shutil.copytree(kept, copy, dirs_exist_ok=True)
    shutil.rmtree(kept)


def refresh(folder: Path) -> None:
    """Hashes the code again, as ``dvc repro`` does first."""
    dvc(folder, "repro", "--quiet", "--single-item", "fingerprints")


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
    for name in ("benchmarks/lsmdc", "training/watchdog", "heartbeat", "cluster", "search/settings"):
        append(edited / f"components/{name}.py", "\nUNUSED = 1\n")
    for kind, registry in (("benchmarks", "BENCHMARKS"), ("methods", "METHODS")):
        (edited / f"components/{kind}/brand_new.py").write_text("NEW = 1\n", encoding="utf-8")
        line = f'\n{registry}.register("brand_new", "components.{kind}.brand_new:NEW")\n'
        append(edited / f"components/{kind}/__init__.py", line)
    refresh(edited)
    assert stale(edited) == set()


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


def change(folder: Path, block: str, **values: object) -> None:
    yaml = YAML()
    tree = yaml.load((folder / "params.yaml").read_text(encoding="utf-8"))
    tree[block].update(values)
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(tree, stream)


def test_another_machine_reruns_nothing(edited: Path) -> None:
    change(edited, "execution", workers=8, cache_mib=65536, timeout_seconds=900.0, checkpoint_steps=50)
    change(edited, "ray", num_cpus=64)
    assert stale(edited) == set()


def test_a_setting_that_decides_reruns_the_trainings(edited: Path) -> None:
    change(edited, "training", epochs=7)
    assert stale(edited) == {name for name in trainings(*METHODS) if name.startswith("train@")}
