"""The code that decides a result, and its hash. DVC's dependencies and the key of a training both come from here.

A stage names the modules that do its work (:data:`ROOTS`). Their imports are followed through the source; nothing is
imported. Two kinds of file do not count, because they decide nothing. A registry only names plug-ins, and a plug-in
counts where it is used. Code that watches or carries work (:data:`PASSIVE`) does not touch results.

Comments, docstrings and blank lines do not count either: an edit of the prose reruns nothing.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from components.errors import ConfigError

PACKAGE = "components"

# The modules that do the work of each stage. A training of method M also runs the code of M.
ROOTS: dict[str, tuple[str, ...]] = {
    "demo": ("components.embedded.collections", "components.embedded.annotations"),
    "pretrain": ("components.embedded.pretraining", "components.embedded.vocabulary"),
    "backbones": ("components.backbones.identity",),
    "ingest": ("components.ingest.run",),
    "captions": ("components.captions.run",),
    "train": ("components.training.job", "components.evaluation.validation"),
    "evaluate": (
        "components.adapters.file",
        "components.backbones.load",
        "components.evaluation.evaluate",
        "components.evaluation.scorecard",
    ),
    "register": (
        "components.benchmarks.reader",
        "components.tracking.registry",
        "components.tracking.model",
        "components.search.pyfunc",
    ),
    "index": (
        "components.backbones.load",
        "components.benchmarks.reader",
        "components.search.calibrate",
        "components.search.gallery",
        "components.search.chosen",
        "components.search.stage",
    ),
    "report": ("components.report.collect", "components.report.page"),
}

# These hold names of plug-ins and nothing else. The module of a plug-in that is used is added to the roots.
REGISTRIES = (
    "components.backbones.families",
    "components.benchmarks",
    "components.captions",
    "components.ingest.decoders",
    "components.methods",
)

# These report progress, or know where files are kept. No result depends on them.
PASSIVE = (
    "components.addresses",
    "components.backbones.hub",
    "components.backbones.naming",
    "components.cli",
    "components.cluster",
    "components.errors",
    "components.fingerprint",
    "components.heartbeat",
    "components.ingest.events",
    "components.ingest.progress",
    "components.layout",
    "components.liveness",
    "components.params",
    "components.samecode",
    "components.search.media",
    "components.search.notes",
    "components.training.mailbox",
    "components.training.metrics",
    "components.training.time_left",
    "components.training.utilisation",
    "components.training.watchdog",
)


@dataclass(frozen=True)
class Code:
    """The code that decides a result.

    Args:
        files: Sorted names such as ``components/methods/vop.py``.
        sha256: Hex hash over names and contents, without comments and docstrings.
    """

    files: tuple[str, ...]
    sha256: str


def code_of(stage: str, plugins: Iterable[str] = ()) -> Code:
    """The code that decides the results of a stage.

    Args:
        stage: A key of :data:`ROOTS`.
        plugins: ``"package.module:Name"`` of the methods, readers and decoders in use. One from outside the project
            counts with all files of its package that it imports.

    Raises:
        ConfigError: A plug-in's module is not installed.
    """
    modules = [target.partition(":")[0] for target in plugins]
    packages = frozenset({PACKAGE, *(module.partition(".")[0] for module in modules)})
    return _code(_closure((*ROOTS[stage], *sorted(set(modules))), packages))


def code_of_plugin(target: str) -> Code:
    """The code of a plug-in from outside the project, without that of the project.

    Args:
        target: ``"package.module:Name"``.

    Raises:
        ConfigError: The module is not installed.
    """
    module = target.partition(":")[0]
    return _code(_closure((module,), frozenset({module.partition(".")[0]})))


def _code(files: Iterable[tuple[str, Path]]) -> Code:
    files, digest = tuple(files), hashlib.sha256()
    for name, path in files:
        digest.update(name.encode() + b"\0" + _content_hash(path) + b"\0")
    return Code(tuple(name for name, _ in files), digest.hexdigest())


@lru_cache(maxsize=256)
def _closure(roots: tuple[str, ...], packages: frozenset[str]) -> tuple[tuple[str, Path], ...]:
    """Names and paths of the files that ``roots`` load out of ``packages``, sorted by name."""
    found: dict[str, Path] = {}
    todo = list(roots)
    while todo:
        module = todo.pop()
        for part in _with_parents(module):
            if part in REGISTRIES or part in PASSIVE:
                continue
            path = _file(part, required=part == module and module in roots)
            name = "" if path is None else _name(part, path)
            if path is None or name in found:
                continue
            found[name] = path
            found.update((_name(part, data), data) for data in _data_files(path))
            todo += [name for name in _imports(part, path) if name.partition(".")[0] in packages]
    return tuple(sorted(found.items()))


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])


def _name(module: str, path: Path) -> str:
    folder = module.replace(".", "/") if path.name == "__init__.py" else module.rpartition(".")[0].replace(".", "/")
    return f"{folder}/{path.name}".lstrip("/")


@lru_cache(maxsize=1024)
def _file(module: str, required: bool) -> Path | None:
    """The file of a module, which is not imported; None for what is none, such as a class named by an import."""
    top, *parts = module.split(".")
    spec = importlib.util.find_spec(top)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        base = Path(folder).joinpath(*parts)
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if path.is_file():
                return path
    if spec is not None and not parts and spec.origin is not None and spec.origin.endswith(".py"):
        return Path(spec.origin)
    if required:
        raise ConfigError("module is not installed", where=module, cure="install the package that holds it")
    return None


@lru_cache(maxsize=1024)
def _imports(module: str, path: Path) -> tuple[str, ...]:
    """Full names of what a module imports, and of the modules that it names in strings to run them elsewhere."""
    if path.suffix != ".py":
        return ()
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found += [source, *(f"{source}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [node.value] if re.fullmatch(rf"{PACKAGE}(\.\w+)+", node.value) else []
    return tuple(found)


@lru_cache(maxsize=1024)
def _data_files(path: Path) -> tuple[Path, ...]:
    """Files next to a module that it names, such as ``mini.json``."""
    text = path.read_text(encoding="utf-8")
    return tuple(
        file for file in path.parent.iterdir() if file.suffix not in ("", ".py", ".pyc") and f'"{file.name}"' in text
    )


@lru_cache(maxsize=1024)
def _content_hash(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".py":
        content = bare_source(content.decode("utf-8")).encode()
    return hashlib.sha256(content).digest()


def bare_source(source: str) -> str:
    """Python source without comments, docstrings and blank lines."""
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column] + "\n"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            for row in range(first.lineno, (first.end_lineno or first.lineno) + 1):
                lines[row - 1] = "\n"
            if len(node.body) == 1 and first.col_offset:
                lines[first.lineno - 1] = " " * first.col_offset + "pass\n"
    return "".join(line.rstrip() + "\n" for line in lines if line.strip())
