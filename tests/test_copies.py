"""Copies of the project: a job's package is small, and a temporary experiment runs its own code, with real DVC."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_MIB = 8


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files and those that could be, without tests."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def test_a_job_s_package_stays_small(checkout: Path, tmp_path: Path) -> None:
    """As `ray job submit --working-dir .` makes it, in a checkout that was used: Ray refuses more than 512 MiB."""
    from ray._private.runtime_env.packaging import create_package

    used = Path(shutil.copytree(checkout, tmp_path / "used"))
    large = (
        "weights/clip.safetensors", "weights/open_clip/ViT-B-32.pt", "clip.safetensors", "models/mine/vit.safetensors",
        "data/mine/a.mp4", "outputs/frames/mine/shard-00000.parquet", "mlflow.db", "mlartifacts/1/a", ".venv/lib/a.so",
        ".reeltune/train/checkpoint", ".git/objects/pack",
    )  # fmt: skip
    for name in large:
        (used / name).parent.mkdir(parents=True, exist_ok=True)
        (used / name).write_bytes(os.urandom(2**20))
    package = tmp_path / "package.zip"
    create_package(str(used), package, include_gitignore=False)
    with zipfile.ZipFile(package) as content:
        names = set(content.namelist())
    assert not names & set(large)
    assert {"components/cli.py", "pipelines/train.py", "params.yaml", "models/mini.safetensors"} <= names
    assert package.stat().st_size < MOST_MIB * 2**20


def call(folder: Path, *command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    names = {f"GIT_{who}_{what}": f"{who}@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    environment |= {**names, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_temporary_experiment_runs_its_own_code(checkout: Path) -> None:
    """DVC copies the commit elsewhere. An installed copy of the project must not take its place."""
    script = checkout / "pipelines" / "fingerprints.py"
    text = script.read_text()
    script.write_text(text + '\nif __name__ == "__main__":\n    print("code:", cli.__file__)\n')
    call(checkout, "git", "init", "-q", "-b", "main")
    call(checkout, "git", "add", "-A")
    call(checkout, "git", "commit", "-qm", "start")
    # A script that is started from anywhere runs the components next to it.
    assert f"code: {checkout}/components/cli.py" in call(
        checkout.parent, sys.executable, str(script), "--root", str(checkout)
    )
    shown = call(checkout, "dvc", "exp", "run", "--temp", "-f", "-s", "fingerprints")
    [line] = [line for line in shown.splitlines() if line.startswith("code: ")]
    assert line.startswith(f"code: {checkout}/.dvc/tmp/exps/")
    assert line.endswith("/components/cli.py")
