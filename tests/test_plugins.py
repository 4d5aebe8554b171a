"""Plug-ins: registered names, names of entry points, and objects named directly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from components import plugins
from components.errors import ConfigError
from components.plugins import Registry


@pytest.fixture
def registry() -> Registry[type]:
    made: Registry[type] = Registry("thing")
    made.register("path", "pathlib:Path")
    return made


@pytest.fixture
def entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Makes an installed package of a file with entry points; a test writes their text into it."""
    folder = tmp_path / "outside-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._entry_points.cache_clear()
    yield folder / "entry_points.txt"
    plugins._entry_points.cache_clear()


def test_registered_names_do_not_clash(registry: Registry[type]) -> None:
    registry.register("path", "pathlib:Path")
    assert registry.get("path") is Path
    with pytest.raises(ConfigError, match="taken"):
        registry.register("path", "pathlib:PurePath")
    with pytest.raises(ConfigError, match="module:Name"):
        registry.register("other", "pathlib")


@pytest.mark.parametrize("name", ["paths", "pathlib.Path", "pathlib:", "a b:C", "a:b:c", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(registry: Registry[type], name: str) -> None:
    with pytest.raises(ConfigError, match=r"here: unknown thing; found .*; expected one of path"):
        registry.target(name, where="here")
    with pytest.raises(ConfigError, match="did you mean 'path'"):
        registry.get("paths")


def test_an_object_is_named_directly(registry: Registry[type]) -> None:
    assert registry.target("collections.abc:Sequence") == "collections.abc:Sequence"
    assert registry.get("pathlib:PurePath").__name__ == "PurePath"
    assert list(registry) == ["path"]


def test_a_module_that_is_not_installed_says_what_to_install(registry: Registry[type]) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.get("no_such_package.part:Thing", where="params.yaml things.mine")
    assert str(caught.value) == (
        "params.yaml things.mine: thing 'no_such_package.part:Thing' cannot be imported; "
        "install the package that provides 'no_such_package', or put its folder on PYTHONPATH"
    )


def test_a_package_that_a_plugin_needs_is_named(
    registry: Registry[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy_thing.py").write_text("import needed_elsewhere.part\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="install the package that provides 'needed_elsewhere'"):
        registry.get("needy_thing:Thing")


def test_a_missing_module_or_attribute_of_an_installed_package_is_named(registry: Registry[type]) -> None:
    with pytest.raises(ConfigError, match=r"installed 'xml' has no module 'xml\.nothing'"):
        registry.get("xml.nothing:Thing")
    with pytest.raises(ConfigError, match=r"not in its module; found 'pathlib:Pth'.*did you mean 'Path'"):
        registry.get("pathlib:Pth")


def test_entry_points_are_names(registry: Registry[type], entry_points: Path) -> None:
    entry_points.write_text("[reeltune.things]\npure = pathlib:PurePath [extra]\n[other.things]\nelse = os:sep\n")
    assert registry.target("pure") == "pathlib:PurePath"
    assert registry.get("pure").__name__ == "PurePath"
    assert registry.names() == ["path", "pure"]
    with pytest.raises(ConfigError, match="expected one of path, pure; did you mean 'pure'"):
        registry.get("pur")


def test_an_entry_point_does_not_replace_a_registered_name(registry: Registry[type], entry_points: Path) -> None:
    entry_points.write_text("[reeltune.things]\npath = os:PathLike\n")
    with pytest.raises(ConfigError, match=r"taken by several packages; found 'path'.*os:PathLike, pathlib:Path"):
        registry.get("path")


def test_an_entry_point_without_an_attribute_is_refused(registry: Registry[type], entry_points: Path) -> None:
    entry_points.write_text("[reeltune.things]\nbroken = pathlib\n")
    with pytest.raises(ConfigError, match="entry point of the thing 'broken' is not usable; found 'pathlib'"):
        registry.get("broken")
