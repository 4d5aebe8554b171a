"""The house rules that a program can check: directions of import, stage dependencies, entry scripts, sizes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from components.fingerprint import PASSIVE, REGISTRIES, ROOTS, code_of

ROOT = Path(__file__).resolve().parents[1]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]

# A part imports only from lines above its own. `settings` stands for every settings.py, whichever part it is in.
LINES = [
    {"errors"},
    {
        "addresses",
        "config",
        "heartbeat",
        "layout",
        "liveness",
        "moments",
        "plugins",
        "precision",
        "processes",
        "provenance",
        "samecode",
        "sigterm",
        "storage",
    },
    {"cluster", "fingerprint", "records", "settings", "task"},
    {"params", "shared_ray", "video"},
    {"manifest"},
    {"backbones", "benchmarks", "frames"},
    {"captions", "embedded", "ingest", "methods"},
    {"adapters"},
    {"evaluation", "training"},
    {"tracking"},
    {"search"},
    {"report"},
    {"names"},
    {"cli", "recipes"},
]

# What a script may call besides the code that decides its stage's result: it carries the work or records it.
CARRIERS = {
    "components.provenance",
    "components.storage",
    "components.tracking.champion",
    "components.tracking.record",
    "components.tracking.runs",
    "components.training.distributed",
}


def sources(folder: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py"))


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(path): path for path in sources("components")}


def part(module: str) -> str:
    names = module.split(".")
    return "settings" if names[-1] == "settings" else names[1]


def imported(path: str) -> set[str]:
    """Modules of the project that a file imports anywhere: at its top, in a function, or for type checkers alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in inner}
    return names


def test_imports_run_in_one_direction_and_never_within_a_line() -> None:
    level = {name: index for index, names in enumerate(LINES) for name in names}
    wrong = []
    for module, path in MODULES.items():
        if module == "components":
            continue
        for target in sorted(imported(path)):
            if target.startswith("pipelines"):
                wrong.append(f"{path} imports {target}")
            if not target.startswith("components."):
                continue
            if part(target) != part(module) and level[part(target)] >= level[part(module)]:
                wrong.append(f"{path} imports {target}")
    assert wrong == []


def test_no_imports_go_in_a_circle() -> None:
    edges = {module: {name for name in imported(path) if name in MODULES} for module, path in MODULES.items()}
    while leaves := {module for module, targets in edges.items() if not targets - {module}}:
        edges = {module: targets - leaves for module, targets in edges.items() if module not in leaves}
    assert edges == {}


def test_every_part_has_its_place_in_the_order() -> None:
    parts = {part(module) for module in MODULES if module != "components"}
    assert parts == set().union(*LINES)


@pytest.mark.parametrize("name", sorted(set(STAGES) - {"fingerprints"}))
def test_a_stage_depends_on_its_script_and_on_the_hash_of_its_code(name: str) -> None:
    stage = STAGES[name]
    script = re.search(r"pipelines/\w+\.py", stage["cmd"])
    assert script is not None
    code = [dep for dep in stage["deps"] if dep.startswith("outputs/fingerprints/")]
    assert [dep for dep in stage["deps"] if dep.startswith(("components", "pipelines"))] == [script[0]]
    assert len(code) == 1
    assert re.fullmatch(rf"outputs/fingerprints/{name}(/\$\{{item\.\w+\}})?\.json", code[0])


@pytest.mark.parametrize("name", sorted(ROOTS))
def test_what_a_script_calls_is_among_the_code_that_decides(name: str) -> None:
    script = re.search(r"pipelines/\w+\.py", STAGES[name]["cmd"])
    assert script is not None
    called = {module for module in imported(script[0]) if module.startswith("components.")}
    decides = {module_of(file) for file in code_of(name).files}
    assert called - decides - CARRIERS - set(PASSIVE) - set(REGISTRIES) == set()


def test_the_stages_fit_on_two_pages() -> None:
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 150


def test_only_tracking_knows_mlflow() -> None:
    users = {
        part(module) for module, path in MODULES.items() for name in imported(path) if name.split(".")[0] == "mlflow"
    }
    assert users == {"tracking"}


def test_only_the_layout_knows_the_folders_of_a_project() -> None:
    folders = re.compile(r"""["'](outputs|\.reeltune|mlartifacts|mlflow\.db)["'/]""")
    users = [
        path for path in (*sources("components"), *sources("pipelines")) if folders.search((ROOT / path).read_text())
    ]
    assert users == ["components/layout.py"]


def test_entry_scripts_are_thin_and_no_package() -> None:
    assert not (ROOT / "pipelines/__init__.py").exists()
    long = [path for path in sources("pipelines") if len((ROOT / path).read_text().splitlines()) > 75]
    assert long == []


def test_no_file_is_much_beyond_300_lines() -> None:
    paths = [*sources("components"), *sources("pipelines"), *sources("tests")]
    sizes = {path: len((ROOT / path).read_text().splitlines()) for path in paths}
    assert {path: lines for path, lines in sizes.items() if lines > 400} == {}


def test_params_explain_every_key() -> None:
    bare = []
    for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines():
        if re.match(r"\s+\w+:\s*\S", line) and "#" not in line:
            bare.append(line.strip())
    assert bare == []
