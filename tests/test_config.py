"""params.yaml: every fault at once, with key and cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import ConfigError
from components.params import load_params

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params.yaml"


def test_the_file_in_the_repository_is_right() -> None:
    params = load_params(PARAMS)
    assert set(params.run.tasks) <= set(params.tasks)
    assert set(params.run.methods) <= set(params.methods)


def test_all_faults_are_named_in_one_error() -> None:
    faults = ["training.epochs=many", "frames.sizes=3", "backbone.model=3", "training.warmup_share=1.5", "extra=1"]
    with pytest.raises(ConfigError) as caught:
        load_params(PARAMS, faults)
    text = str(caught.value)
    assert "5 fault(s)" in text
    assert str(PARAMS) in text
    assert "training.epochs" in text
    assert "'many'" in text
    assert "frames.sizes: unknown key (did you mean 'size'?)" in text
    assert "extra: unknown key" in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epoch=3", "did you mean 'epochs'?"),
        ("trainin.epochs=3", "did you mean 'training'?"),
        ("training.epochs", "not key=value"),
        ("training.epochs.more=1", "unknown key"),
        ("training.weight_decay=.nan", "number"),
    ],
)
def test_a_wrong_override_says_what_would_be_right(override: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected.replace("?", r"\?")):
        load_params(PARAMS, [override])


def test_overrides_replace_and_keep_types() -> None:
    params = load_params(PARAMS, ["training.epochs=3", "run.seeds=[1, 2]", "training.weight_decay=1e-3"])
    assert (params.training.epochs, params.run.seeds, params.training.weight_decay) == (3, (1, 2), 1e-3)


@pytest.mark.parametrize("text", ["a: [1", "a: 1\na: 2\n", "- 1\n- 2\n", ""])
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        load_params(tmp_path / "params.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_params(tmp_path / "params.yaml")


def test_unknown_tasks_and_methods_are_named() -> None:
    params = load_params(PARAMS)
    with pytest.raises(ConfigError, match="did you mean 'shapes-clips'"):
        params.task("shape-clips")
    with pytest.raises(ConfigError, match="unknown method"):
        params.method("nothing")
