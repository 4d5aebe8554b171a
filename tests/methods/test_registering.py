"""Methods from outside the project: by a registered name, by ``package.module:Class`` or by an entry point.

``outside_lab`` is a package in a temporary folder with the metadata of an installed distribution.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_world
import torch
from tiny_backbone import FRAMES, TEXTS, WORDS, clips
from variants import BACKBONE, raw_settings

from components import plugins
from components.adapters.card import read_card
from components.adapters.file import load_adapter, save_adapter
from components.errors import ConfigError
from components.methods import METHODS
from components.methods.base import Method, MethodSettings
from components.methods.build import build, read_settings
from components.methods.entries import canonical, targets
from components.methods.vop import PRESETS
from components.training.job import Job, run

NAME = "tiny_method"
TARGET = "outside_lab.gains.channel:Tiny"
# One name of each kind, and the name that the adapter's card holds.
EACH_KIND = pytest.mark.parametrize(("name", "kept"), [(NAME, NAME), (TARGET, TARGET), ("lab_gain", TARGET)])


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Registers the tiny method and installs it as a package; yields the folder of the package."""
    here, folder = Path(__file__).parent, tmp_path_factory.mktemp("outside")
    gains, metadata = folder / "outside_lab" / "gains", folder / "outside_lab-1.0.dist-info"
    gains.mkdir(parents=True)
    metadata.mkdir()
    for package in (gains, gains.parent):
        (package / "__init__.py").write_text("")
    (gains / "channel.py").write_text((here / "tiny_method.py").read_text())
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside_lab\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[reeltune.methods]\nlab_gain = {TARGET}\n")
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(METHODS, "_targets", dict(METHODS._targets))
    METHODS.register(NAME, "tiny_method:Tiny")
    plugins._entry_points.cache_clear()
    yield folder
    forget_outside()


def forget_outside() -> None:
    plugins._entry_points.cache_clear()
    for module in [module for module in sys.modules if module.startswith("outside_lab")]:
        del sys.modules[module]


def make(method: object, **settings: object) -> Method:
    return build("mine", {"method": method, "lr": 1e-3, **settings}, BACKBONE, frames=FRAMES, words=WORDS)


@EACH_KIND
def test_settings_are_checked(name: str, kept: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)methods.{name}.*strat: unknown key \(did you mean 'start'\?\)"):
        read_settings(name, {"lr": 1e-3, "strat": 2.0})


@EACH_KIND
def test_saved_and_loaded(name: str, kept: str, tmp_path: Path) -> None:
    method = make(name, start=0.5)
    save_adapter(tmp_path, method, task="t", provenance={}, label="mine")
    card = read_card(tmp_path)
    assert (card.method, card.label, card.settings["start"]) == (kept, "mine", 0.5)
    loaded = load_adapter(tmp_path, BACKBONE)
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    assert list(loaded.trainable()) == ["gain"]
    assert all(torch.equal(a, b) for a, b in zip(loaded(*inputs), method(*inputs), strict=True))


@EACH_KIND
def test_composed_with_others(name: str, kept: str, tmp_path: Path) -> None:
    model = make(["vop_fp", name], **{name: {"start": 2.0}})
    assert model.name == f"vop_fp+{kept}"
    gain = model.trainable()["parts." + kept.replace(".", "/") + ".gain"]
    assert torch.equal(gain.detach(), torch.full_like(gain, 2.0))
    assert set(model.learning_rates()) == set(model.trainable())
    save_adapter(tmp_path, model, task="t", provenance={})
    loaded = load_adapter(tmp_path, BACKBONE)
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    assert all(torch.equal(a, b) for a, b in zip(loaded(*inputs), model(*inputs), strict=True))


@EACH_KIND
def test_the_code_of_its_module_counts(name: str, kept: str) -> None:
    base = "components.methods"
    assert targets(canonical("mine", {"method": name})[0]) == [METHODS.target(kept), f"{base}.zero_shot:ZeroShot"]
    both = targets(canonical("mine", {"method": ["vop", name]})[0])
    assert both[:3] == [f"{base}.composed:Composed", f"{base}.vop:VoP", METHODS.target(kept)]


@EACH_KIND
def test_trained_from_params(name: str, kept: str, tmp_path: Path) -> None:
    tiny_world.write_project(tmp_path)
    params = tiny_world.params(tmp_path, f"methods.mine={{method: '{name}', lr: 0.01}}")
    job = Job.of(tmp_path, params, tiny_world.TASK, "mine", 0)
    plan = job.plan()
    outcome = run(job, plan, torch.device("cpu"), None, None)
    assert outcome.parameters.trainable == 128
    assert outcome.result.steps == 6
    assert read_card(Path(job.work_folder(plan.key)) / "adapter").method == kept


@pytest.mark.parametrize("methods", ["lab_gain", ["vop", TARGET]])
def test_an_adapter_without_its_package_says_what_to_install(methods: object, outside: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, make(methods), task="t", provenance={})
    sys.path.remove(str(outside))
    forget_outside()
    with pytest.raises(ConfigError, match=rf"{tmp_path}.*{TARGET}.*install the package that provides 'outside_lab'"):
        load_adapter(tmp_path, BACKBONE)


def test_an_object_that_is_no_method_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"methods\.mine: not a method; found 'pathlib:Path'"):
        make("pathlib:Path")


def test_two_names_of_one_method_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"methods\.mine\.method: not a method.*a list of different names"):
        make(["lab_gain", TARGET])


def test_a_method_that_trains_needs_a_learning_rate() -> None:
    class Rateless(Method[MethodSettings]):
        def setup(self) -> None:
            self.gain = torch.nn.Parameter(torch.ones(1))

    method = Rateless(BACKBONE, MethodSettings(), frames=FRAMES, words=WORDS, name="here:Rateless")
    with pytest.raises(ConfigError, match="here:Rateless: a method that trains has no learning rate"):
        method.learning_rates()


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_has_the_name_that_it_is_registered_under(name: str) -> None:
    assert build(name, raw_settings(name), BACKBONE, frames=FRAMES, words=WORDS).name == name


def test_every_preset_of_vop_is_a_registered_name() -> None:
    assert set(PRESETS) == {name for name in METHODS if METHODS.target(name) == METHODS.target("vop")} - {"vop"}
