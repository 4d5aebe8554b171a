"""A failed run of a stage loses nothing: real DVC with the outputs of the real dvc.yaml and small scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "DVC_NO_ANALYTICS": "1", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

# Replaces the outputs whole, as the stages' scripts do, or fails before it has anything to publish.
SCRIPT = """
grep -q fails input && exit 1
for out in "$@"; do
    mkdir -p "$(dirname "$out")"
    rm -rf new
    case "$out" in *.*) cp input new ;; *) mkdir new; cp input new/content; rm -rf "$out" ;; esac
    mv new "$out"
done
"""


def outputs(stage: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A stage's outputs, metrics and plots with their flags, for one entry of its matrix."""
    found = {}
    for kind in ("outs", "metrics", "plots"):
        for entry in stage.get(kind, []):
            path, flags = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
            for key in ("task", "method", "seed"):
                path = path.replace(f"${{item.{key}}}", key)
            found[path] = {key: value for key, value in flags.items() if key in ("cache", "persist")}
    return found


STAGES = {
    name: outputs(stage)
    for name, stage in YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items()
    if not stage.get("frozen")  # its outputs are in git
}


def dvc(folder: Path, *arguments: str, fails: bool = False) -> str:
    done = subprocess.run(["dvc", *arguments], cwd=folder, env=ENV, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def contents(folder: Path, stage: str) -> list[str | None]:
    files = [folder / path if Path(path).suffix else folder / path / "content" for path in STAGES[stage]]
    return [file.read_text() if file.exists() else None for file in files]


@pytest.mark.slow
def test_a_failed_run_loses_nothing_and_a_good_one_replaces_all(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "make.sh").write_text(SCRIPT)
    (folder / "input").write_text("good")
    stages = {
        name: {
            "cmd": " ".join(["sh", "make.sh", *outs]),
            "deps": ["input"],
            "outs": [{path: flags} if flags else path for path, flags in outs.items()],
        }
        for name, outs in STAGES.items()
    }
    with (folder / "dvc.yaml").open("w") as stream:
        YAML().dump({"stages": stages}, stream)
    dvc(folder, "init", "--no-scm", "--quiet")
    dvc(folder, "repro", "--quiet")
    (folder / "input").write_text("this one fails")
    dvc(folder, "repro", "--quiet", "--keep-going", fails=True)
    kept = {stage for stage in STAGES if contents(folder, stage) == ["good"] * len(STAGES[stage])}
    assert kept == {"backbones", "captions", "demo", "fingerprints", "index", "ingest", "register"}
    dvc(folder, "checkout", "--quiet")  # DVC's cache has the others
    assert {stage: contents(folder, stage) for stage in STAGES} == {s: ["good"] * len(STAGES[s]) for s in STAGES}

    (folder / "outputs" / "frames" / "task" / "left-over").touch()
    (folder / "input").write_text("better")
    dvc(folder, "repro", "--quiet")
    assert {stage: contents(folder, stage) for stage in STAGES} == {s: ["better"] * len(STAGES[s]) for s in STAGES}
    assert not (folder / "outputs" / "frames" / "task" / "left-over").exists()
    assert "up to date" in dvc(folder, "status")
