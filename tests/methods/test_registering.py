"""A new method is a file and a line in the registry: settings, adapter files, composition and training find it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_world
import torch
from tiny_backbone import FRAMES, TEXTS, WORDS, clips
from variants import BACKBONE

from components.adapters.card import read_card
from components.adapters.file import load_adapter, save_adapter
from components.errors import ConfigError, ReelTuneError
from components.methods import METHODS
from components.methods.build import build, method_class, read_settings
from components.training.job import Job, run

NAME = "tiny_method"
# The same method by its registered name and by its place, which needs no registration.
EITHER = pytest.mark.parametrize("name", [NAME, "tiny_method:Tiny", "outside_package.deep:Tiny"])


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    package = tmp_path_factory.mktemp("outside")
    (package / "outside_package").mkdir()
    (package / "outside_package" / "__init__.py").write_text("")
    (package / "outside_package" / "deep.py").write_text((Path(__file__).parent / "tiny_method.py").read_text())
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setattr(METHODS, "_targets", dict(METHODS._targets))
    METHODS.register(NAME, "tiny_method:Tiny")
    return


@EITHER
def test_settings_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)methods.{name}.*strat: unknown key \(did you mean 'start'\?\)"):
        read_settings(name, {"lr": 1e-3, "strat": 2.0})


@EITHER
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    method = build("mine", {"method": name, "lr": 1e-3, "start": 0.5}, BACKBONE, frames=FRAMES, words=WORDS)
    save_adapter(tmp_path, method, task="t", provenance={})
    assert read_card(tmp_path).method == name
    loaded = load_adapter(tmp_path, BACKBONE)
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    assert list(loaded.trainable()) == ["gain"]
    assert all(torch.equal(a, b) for a, b in zip(loaded(*inputs), method(*inputs), strict=True))


@EITHER
def test_composed_with_others(name: str, tmp_path: Path) -> None:
    settings = {"method": ["vop_fp", name], "lr": 1e-3}
    model = build("both", settings, BACKBONE, frames=FRAMES, words=WORDS)
    assert any(key.startswith("parts.") and key.endswith("gain") for key in model.trainable())
    save_adapter(tmp_path, model, task="t", provenance={})
    assert load_adapter(tmp_path, BACKBONE).trainable().keys() == model.trainable().keys()


@EITHER
def test_trained_from_params(name: str, tmp_path: Path) -> None:
    tiny_world.write_project(tmp_path)
    params = tiny_world.params(tmp_path, f"methods.mine={{method: '{name}', lr: 0.01}}")
    job = Job.of(tmp_path, params, tiny_world.TASK, "mine", 0)
    outcome = run(job, job.plan(), torch.device("cpu"), None, None)
    assert outcome.parameters.trainable == 128
    assert outcome.result.steps == 6


def test_an_adapter_of_a_method_that_is_not_installed_says_what_to_install(tmp_path: Path) -> None:
    method = build("mine", {"method": "tiny_method:Tiny", "lr": 1e-3}, BACKBONE, frames=FRAMES, words=WORDS)
    save_adapter(tmp_path, method, task="t", provenance={})
    card = (tmp_path / "adapter.json").read_text()
    (tmp_path / "adapter.json").write_text(card.replace("tiny_method:Tiny", "some_lab.tricks:Tiny"))
    with pytest.raises(ReelTuneError, match=r"some_lab\.tricks:Tiny.*install.*some_lab"):
        load_adapter(tmp_path, BACKBONE)


def test_an_object_that_is_no_method_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"not a method.*pathlib:Path"):
        build("mine", {"method": "pathlib:Path"}, BACKBONE, frames=FRAMES, words=WORDS)


def test_the_registry_gives_the_name() -> None:
    """What a card says is what loads it, whatever the class calls itself."""
    for name in METHODS:
        assert method_class(name).name == name
