"""What every entry script does with its arguments, its errors and a reader that closes the pipe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import os, signal, time
from components import cli
from components.errors import DataError

def body(stage):
    if stage.args.fail:
        raise DataError("is broken", where="a file", found=3, expected="4", cure="mend it")
    if stage.args.pipe:
        raise BrokenPipeError("a worker's")
    if stage.args.interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    head = f"0 {stage.params.training.epochs} {stage.params.evaluation.batch_size}"
    cli.show("\\n".join([head, *map(str, range(1, 100_000))]))

def arguments(parser):
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--pipe", action="store_true")
    parser.add_argument("--interrupted", action="store_true")

cli.main(body, "a script", arguments)
"""


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    return [sys.executable, str(tmp_path / "script.py"), "--root", str(tmp_path)]


def test_overrides_may_surround_options(script: list[str]) -> None:
    command = [*script[:2], "training.epochs=9", *script[2:], "evaluation.batch_size=7"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("0 9 7\n")


def test_a_project_error_is_one_line(script: list[str]) -> None:
    done = subprocess.run([*script, "--fail"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: a file: is broken; found 3; expected 4; mend it\n"


def test_a_reader_that_closes_the_pipe_is_no_error(script: list[str]) -> None:
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("0 ")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_broken_pipe_elsewhere_is_a_fault(script: list[str]) -> None:
    done = subprocess.run([*script, "--pipe"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "BrokenPipeError: a worker's" in done.stderr


def test_an_interrupt_is_no_traceback(script: list[str]) -> None:
    done = subprocess.run([*script, "--interrupted"], capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_disk_that_takes_nothing_is_one_line(tmp_path: Path) -> None:
    """A process that may write no byte meets what a full disk or a quota is to it, in a real script."""
    for folder in ("components", "pipelines"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-B", str(tmp_path / "pipelines" / "fingerprints.py"), "--root", str(tmp_path)]
    done = subprocess.run(
        ["prlimit", "--fsize=0", *command], capture_output=True, text=True, check=False, env={**os.environ, "HOME": "/"}
    )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}")
    assert line.endswith("the file is larger than this process may write; mend that, and run the same command again")


WRONG = {
    "data.py": ["check", "--task", "shapes-clip"],
    "evaluate.py": ["--task", "shapes-clip", "--method", "vop"],
    "index.py": ["--task", "shapes-clip"],
    "ingest.py": ["--task", "shapes-clip"],
    "register.py": ["--task", "shapes-clip"],
    "search.py": ["--task", "shapes-clip", "a red circle"],
    "train.py": ["--task", "shapes-clip", "--method", "vop"],
    "tune.py": ["--task", "shapes-clip", "--method", "vop"],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_task_is_answered_at_once(name: str) -> None:
    before = os.times()
    command = [sys.executable, str(ROOT / "pipelines" / name), "--root", str(ROOT), *WRONG[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = os.times()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: params.yaml tasks: unknown task; found 'shapes-clip'; expected one of ")
    assert done.stderr.endswith("(did you mean 'shapes-clips'?)\n")
    # Processor time, since other processes may keep this one waiting. PyTorch alone takes two seconds.
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 2.0


def test_a_wrong_method_is_answered_at_once() -> None:
    command = [sys.executable, str(ROOT / "pipelines" / "train.py"), "--root", str(ROOT)]
    command += ["--task", "shapes-clips", "--method", "vob"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: params.yaml methods: unknown method; found 'vob'")


SECRETS = """
import logging
from components import cli

def body(stage):
    logging.getLogger("components").warning("reads %s", "s3://KEY:SE/CR+ET@bucket/key")
    raise RuntimeError("no answer of https://me:hunter2@server/x?token=abcdef12 for key variable-secret")

cli.main(body, "a script")
"""


def test_logs_and_tracebacks_show_no_credential(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "script.py").write_text(SECRETS)
    command = [sys.executable, str(tmp_path / "script.py"), "--root", str(tmp_path)]
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": "variable-secret"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "reads s3://***@bucket/key" in done.stderr
    assert "RuntimeError: no answer of https://***@server/x?token=*** for key ***\n" in done.stderr


def test_a_setting_of_the_projects_backbone_is_refused_where_it_does_nothing(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    own = "tasks.shapes-clips.backbone={model: ViT-B-32, pretrained: openai}"
    script = [sys.executable, str(ROOT / "pipelines/evaluate.py"), "--root", str(tmp_path), "--method", "vop"]
    given = ["backbone.pretrained=mine.pt", own]
    done = subprocess.run([*script, "--task", "shapes-clips", *given], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: command line: this task has a backbone of its own, so the project's is not used; "
        "found 'backbone.pretrained=mine.pt'; set tasks.shapes-clips.backbone.pretrained=mine.pt\n"
    )
    done = subprocess.run([*script, "--task", "shapes-stories", *given], capture_output=True, text=True, check=False)
    assert "this task has a backbone" not in done.stderr
