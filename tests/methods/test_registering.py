"""A new method is a file and a line in the registry: settings, adapter files, composition and training find it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_world
import torch
from tiny_backbone import FRAMES, TEXTS, WORDS, clips
from variants import BACKBONE

from components.adapters.file import load_adapter, save_adapter
from components.errors import ConfigError
from components.methods import METHODS
from components.methods.base import build, read_settings
from components.methods.code import code_hash, files_of
from components.training.job import Job, run

NAME = "tiny_method"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(METHODS, "_targets", dict(METHODS._targets))
    METHODS.register(NAME, "tiny_method:Tiny")
    return


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"(?s)methods.tiny_method.*strat: unknown key \(did you mean 'start'\?\)"):
        read_settings(NAME, {"lr": 1e-3, "strat": 2.0})


def test_saved_and_loaded(tmp_path: Path) -> None:
    method = build(NAME, {"lr": 1e-3, "start": 0.5}, BACKBONE, frames=FRAMES, words=WORDS)
    save_adapter(tmp_path, method, task="t", provenance={})
    loaded = load_adapter(tmp_path, BACKBONE)
    inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
    assert list(loaded.trainable()) == ["gain"]
    assert all(torch.equal(a, b) for a, b in zip(loaded(*inputs), method(*inputs), strict=True))


def test_composed_with_others() -> None:
    settings = {"method": ["vop_fp", NAME], "lr": 1e-3}
    model = build("both", settings, BACKBONE, frames=FRAMES, words=WORDS)
    assert f"parts.{NAME}.gain" in model.trainable()


def test_trained_from_params(tmp_path: Path) -> None:
    tiny_world.write_project(tmp_path)
    params = tiny_world.params(tmp_path, f"methods.{NAME}={{lr: 0.01}}")
    job = Job.of(tmp_path, params, tiny_world.TASK, NAME, 0)
    outcome = run(job, job.plan(), torch.device("cpu"), None, None)
    assert outcome.parameters.trainable == 128
    assert outcome.result.steps == 6


class TestCodeOfAMethod:
    def test_files_behind_a_method(self) -> None:
        behind = {name: {path.name for path in files_of([name])} for name in METHODS if name != NAME}
        assert all(
            {f"{METHODS.target(name).partition(':')[0].split('.')[-1]}.py", "base.py"} <= behind[name]
            for name in behind
        )
        assert {"vop_variants.py", "vop.py", "prompts.py", "context.py"} <= behind["vop_fc"]
        assert "mv_adapter.py" not in behind["vop_fc"]
        assert not any("__init__.py" in files for files in behind.values())
        assert {"vop.py", "mv_adapter.py"} <= {path.name for path in files_of(["vop", "mv_adapter"])}

    def test_hash_of_several_is_of_all(self) -> None:
        hashes = {code_hash(name) for name in ("vop", "mv_adapter", "vop+mv_adapter", "full")}
        assert len(hashes) == 4
