"""The hash of the code that decides a result: what counts, and what does not."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from components.errors import ConfigError
from components.fingerprint import PASSIVE, REGISTRIES, ROOTS, bare_source, code_of
from components.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]


def test_comments_docstrings_and_blank_lines_do_not_count() -> None:
    source = '"""Words."""\n\n\ndef f(x):\n    """More\n    words."""\n    # why\n    return "# no comment"  # why\n'
    assert bare_source(source) == 'def f(x):\n    return "# no comment"\n'
    assert bare_source(source.replace("words", "other words")) == bare_source(source)


def test_a_string_that_is_no_docstring_counts() -> None:
    assert bare_source('x = """a"""\n') != bare_source('x = """b"""\n')


@pytest.mark.parametrize("path", sorted(ROOT.glob("components/**/*.py")), ids=lambda path: path.stem)
def test_what_counts_is_still_the_same_program(path: Path) -> None:
    def without_docstrings(source: str) -> str:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
        return ast.dump(tree)

    source = path.read_text(encoding="utf-8")
    assert without_docstrings(bare_source(source)) == without_docstrings(source)


def test_a_method_counts_with_the_modules_that_it_imports() -> None:
    files = code_of("train", [METHODS.target("mv_adapter")]).files
    assert {"components/methods/mv_adapter.py", "components/methods/base.py", "components/training/step.py"} <= set(
        files
    )
    assert "components/methods/lora.py" not in files
    assert not any(
        path.startswith(("components/benchmarks/", "components/search/", "components/report/")) for path in files
    )


@pytest.mark.parametrize("stage", sorted(ROOTS))
def test_registries_and_what_only_watches_never_count(stage: str) -> None:
    files = code_of(stage).files
    for name in (*REGISTRIES, *PASSIVE):
        path = name.replace(".", "/")
        assert f"{path}.py" not in files
        assert f"{path}/__init__.py" not in files


def test_a_plug_in_from_outside_counts_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "outside_fingerprint"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text("from outside_fingerprint.help import VALUE\n")
    (package / "help.py").write_text("from .deeper import MORE\n\nVALUE = MORE\n")
    (package / "deeper.py").write_text("MORE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    code = code_of("train", ["outside_fingerprint.method:Toy"])
    names = {"method.py", "help.py", "deeper.py"}
    assert {f"outside_fingerprint/{name}" for name in names} <= set(code.files)
    assert "outside_fingerprint" not in sys.modules, "nothing is imported"
    with pytest.raises(ConfigError, match=r"not_there\.method.*not installed"):
        code_of("train", ["not_there.method:Toy"])
