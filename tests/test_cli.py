"""What every entry script does with its arguments, its errors and a reader that closes the pipe."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
from components import cli
from components.errors import DataError

def body(stage):
    if stage.args.fail:
        raise DataError("is broken", where="a file", found=3, expected="4", cure="mend it")
    if stage.args.pipe:
        raise BrokenPipeError("a worker's")
    head = f"0 {stage.params.training.epochs} {stage.params.evaluation.batch_size}"
    cli.show("\\n".join([head, *map(str, range(1, 100_000))]))

def arguments(parser):
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--pipe", action="store_true")

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
