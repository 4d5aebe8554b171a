"""The house rules that a program can check: stage dependencies, directions of import, entry scripts, sizes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from import_closure import ROOT, closure
from ruamel.yaml import YAML

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
METHODS = "components/methods"
# A part imports only from those before it; parts of one line stand beside each other and know nothing of one another.
ORDER = [
    {"errors", "plugins", "config", "storage", "provenance", "cluster", "cli", "recipes"},
    {"benchmarks", "backbones"},
    {"embedded", "frames", "methods"},
    {"adapters"},
    {"training", "evaluation"},
    {"tracking"},
    {"search"},
    {"report"},
]


def sources(folder: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("name", sorted(STAGES))
def test_stage_lists_exactly_the_files_it_loads(name: str) -> None:
    stage = STAGES[name]
    script = re.search(r"pipelines/\w+\.py", stage["cmd"])
    assert script is not None
    listed = {dep for dep in stage["deps"] if dep.startswith(("components/", "pipelines/"))}
    expected = closure(script[0]) | {script[0]}
    if any(path.startswith(f"{METHODS}/") for path in expected):
        # The methods are one dependency: adding one touches its file and its line in the registry.
        expected = {path for path in expected if not path.startswith(f"{METHODS}/")}
        if "outputs/code/${item.method}.json" not in stage["deps"]:
            expected.add(METHODS)
    assert listed == expected


def part(path: str) -> str:
    return Path(path).parts[1].removesuffix(".py")


def test_imports_run_in_one_direction() -> None:
    level = {name: index for index, names in enumerate(ORDER) for name in names}
    wrong = []
    for path in sources("components"):
        if Path(path).name == "__init__.py" and len(Path(path).parts) == 2:
            continue
        for module in imported(path):
            if module.startswith("pipelines"):
                wrong.append(f"{path} imports {module}")
            if not module.startswith("components."):
                continue
            target = module.split(".")[1]
            if target != part(path) and target in level and level[target] > level[part(path)]:
                wrong.append(f"{path} imports {module}")
    assert wrong == []


def imported(path: str) -> list[str]:
    names = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            if node.module == "components":
                names += [f"components.{alias.name}" for alias in node.names]
    return names


def test_every_part_has_its_place_in_the_order() -> None:
    parts = {part(path) for path in sources("components")} - {"__init__"}
    assert parts == set().union(*ORDER)


def test_only_tracking_knows_mlflow() -> None:
    users = {path for path in sources("components") for name in imported(path) if name.split(".")[0] == "mlflow"}
    assert {part(path) for path in users} <= {"tracking", "search"}
    assert users <= {"components/tracking/store.py", "components/tracking/runs.py", "components/tracking/model.py", "components/tracking/registry.py",
                     "components/search/pyfunc.py"}  # fmt: skip


def test_entry_scripts_are_thin_and_no_package() -> None:
    assert not (ROOT / "pipelines/__init__.py").exists()
    long = [path for path in sources("pipelines") if len((ROOT / path).read_text().splitlines()) > 75]
    assert long == []


def test_no_file_is_much_beyond_400_lines() -> None:
    paths = [*sources("components"), *sources("pipelines"), *sources("tests")]
    sizes = {path: len((ROOT / path).read_text().splitlines()) for path in paths}
    assert {path: lines for path, lines in sizes.items() if lines > 420} == {}


def test_params_explain_every_key() -> None:
    bare = []
    for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines():
        if re.match(r"\s+\w+:\s*\S", line) and "#" not in line:
            bare.append(line.strip())
    assert bare == []
