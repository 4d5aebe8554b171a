"""params.yaml: every fault at once, with key and cure."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from components.backbones.settings import BackboneSettings
from components.benchmarks import BENCHMARKS
from components.benchmarks.reader import is_published
from components.config import parse_yaml
from components.errors import ConfigError
from components.names import NAMES
from components.params import OLD_KEYS, Params, load_params

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params.yaml"


def write_params(folder: Path, *replaced: tuple[str, str]) -> Path:
    """A copy of params.yaml in which pieces of text are replaced."""
    text = PARAMS.read_text(encoding="utf-8")
    for old, new in replaced:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    return folder / "params.yaml"


def faults_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_params(path, overrides, NAMES)
    return str(caught.value)


def test_the_file_in_the_repository_is_right() -> None:
    params = load_params(PARAMS, names=NAMES)
    assert set(params.run.tasks) <= set(params.tasks)
    assert set(params.run.methods) <= set(params.methods)


def test_all_faults_are_named_in_one_error(tmp_path: Path) -> None:
    path = write_params(
        tmp_path,
        ("epochs: 6 ", "epochs: many "),
        ("  size: 96 ", "  sizes: 96 "),
        ("model: mini ", "model: 3 "),
        ("warmup_share: 0.1 ", "warmup_share: 1.5 "),
        ("ray:\n", "extra: 1\nray:\n"),
    )
    text = faults_of(path)
    assert text.startswith(f"{path}: 6 fault(s) in the settings:\n")
    assert "training.epochs: input should be a valid integer, found 'many'" in text
    assert "frames.sizes: unknown key (did you mean 'size'?)" in text
    assert "frames.size: missing" in text
    assert "backbone.model" in text
    assert "training.warmup_share" in text
    assert "extra: unknown key" in text
    assert "command line" not in text


def test_old_keys_name_the_new_ones_next_to_other_faults(tmp_path: Path) -> None:
    path = write_params(
        tmp_path,
        ("  micro_batches: 4 ", "  slices: 4 "),
        ("  max_grad_norm: 1.0 ", "  clip_norm: 1.0 "),
        ("  epochs: 6 ", "  epoch: 6 "),
    )
    assert faults_of(path).split("\n  ") == [
        f"{path}: 4 fault(s) in the settings:",
        "training.slices: this key is now training.micro_batches",
        "training.clip_norm: this key is now training.max_grad_norm",
        "training.epochs: missing",
        "training.epoch: unknown key (did you mean 'epochs'?)",
    ]


def test_settings_that_moved_to_execution_are_not_reported_as_missing(tmp_path: Path) -> None:
    tree = parse_yaml(PARAMS.read_text(encoding="utf-8"), "params.yaml")
    # New since the settings moved.
    for name in ("decode_threads", "index_workers"):
        del tree["execution"][name]
    tree["training"] |= tree.pop("execution")
    (tmp_path / "params.yaml").write_text(json.dumps({**tree, "executed": {}}))  # JSON is YAML
    found = faults_of(tmp_path / "params.yaml").split("\n  ")[1:]
    moved = [old for old, new in OLD_KEYS.items() if new.startswith("execution.")]
    assert len(moved) == 7
    assert found == [
        *(f"{old}: this key is now {OLD_KEYS[old]}" for old in moved),
        "executed: unknown key (did you mean 'execution'?)",
    ]


@pytest.mark.parametrize("old", OLD_KEYS)
def test_every_old_key_has_a_new_one_and_is_none(old: str) -> None:
    params = load_params(PARAMS)

    def has(key: str) -> bool:
        block, name = key.split(".")
        return hasattr(getattr(params, block), name)

    assert has(OLD_KEYS[old])
    assert not has(old)
    assert faults_of(PARAMS, f"{old}=1") == (
        f"command line: 1 fault(s) in the settings:\n  {old}: this key is now {OLD_KEYS[old]}"
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epoch=3", "training.epoch: unknown key (did you mean 'epochs'?)"),
        ("trainin.epochs=3", "trainin.epochs: unknown key 'trainin', expected one of "),
        ("trainin.epochs=3", "(did you mean 'training'?)"),
        ("training.epochs", "training.epochs: override is not key=value, found 'training.epochs'"),
        ("training.epochs.more=1", "training.epochs.more: unknown key 'more', expected no key below a value"),
        ("training.epochs.more.still=1", "training.epochs.more.still: unknown key 'more', expected no key below"),
        ("training.weight_decay=.nan", "number"),
        ("training.epochs=[", "not readable as YAML"),
        ("training={epochs: 3}", "training.batch_size: missing"),
    ],
)
def test_a_wrong_override_is_the_command_lines_fault(override: str, expected: str) -> None:
    text = faults_of(PARAMS, override)
    assert text.startswith("command line: ")
    assert expected in text
    assert "params.yaml" not in text


def test_a_task_may_have_a_backbone_of_its_own(tmp_path: Path) -> None:
    block = "{model: ViT-B-32, pretrained: openai}"
    path = write_params(tmp_path, ("    words: 48 ", f"    backbone: {block}\n    words: 48 "))
    params = load_params(path, names=NAMES)
    own = BackboneSettings("ViT-B-32", "openai")
    assert params.backbone_of("shapes-stories") == own
    assert params.backbone_of("shapes-clips") == params.backbone
    assert params.backbone_key("shapes-stories") == "tasks.shapes-stories.backbone"
    assert params.backbone_key("shapes-clips") == "backbone"
    assert load_params(path, ["tasks.shapes-stories.backbone=null"]).backbone_of("shapes-stories") == params.backbone
    overrides = [f"tasks.shapes-clips.backbone={block}", "tasks.shapes-stories.backbone.pretrained=laion2b_s34b_b79k"]
    params = load_params(path, overrides)
    assert params.backbone_of("shapes-clips") == own
    assert params.backbone_of("shapes-stories").pretrained == "laion2b_s34b_b79k"
    # Key by key, where the file has no such block.
    keys = ["tasks.shapes-clips.backbone.model=ViT-B-32", "tasks.shapes-clips.backbone.pretrained=openai"]
    assert load_params(path, keys).backbone_of("shapes-clips") == own


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tasks.shapes-clips.backbone.model=ViT-B-32", "tasks.shapes-clips.backbone.pretrained: missing"),
        ("tasks.shapes-clips.backbone.modell=a", "backbone.modell: unknown key (did you mean 'model'?)"),
        ("tasks.shapes-clips.backbon.model=a", "unknown key 'backbon', expected one of "),
        ("tasks.shape-clips.backbone.model=a", "(did you mean 'shapes-clips'?)"),
        (
            "tasks.shapes-clips.backbone=ViT-B-32",
            "tasks.shapes-clips.backbone: expected a mapping of its keys, found 'V",
        ),
        ("tasks.shapes-clips.backbone.model.x=a", "tasks.shapes-clips.backbone.pretrained: missing"),
        ("tasks.shapes-clips.backbone.model=[", "not readable as YAML"),
    ],
)
def test_a_wrong_backbone_of_a_task_is_the_command_lines_fault(override: str, expected: str) -> None:
    text = faults_of(PARAMS, override)
    assert text.startswith("command line: ")
    assert expected in text


def test_faults_of_the_file_and_of_overrides_come_together(tmp_path: Path) -> None:
    path = write_params(tmp_path, ("epochs: 6 ", "epochs: many "))
    assert faults_of(path, "training.slices=2", "trainin.x=1").split("\n  ")[:3] == [
        f"{path}: 3 fault(s) in the settings:",
        "training.epochs: input should be a valid integer, found 'many'",
        "command line trainin.x: unknown key 'trainin', expected "
        + faults_of(path, "trainin.x=1").split("expected ")[1],
    ]
    assert load_params(path, ["training.epochs=3"]).training.epochs == 3


def test_unknown_plugins_are_faults_like_others(tmp_path: Path) -> None:
    path = write_params(
        tmp_path,
        ("benchmark: msrvtt ", "benchmark: msrvt "),
        ("decoder: auto ", "decoder: outo "),
        ("sampling: segment_center ", "sampling: middle "),
        ("method: mv_adapter ", "method: mv_adaptor "),
        ("method: [vop, mv_adapter] ", "method: [vop, vop] "),
    )
    text = faults_of(path)
    assert "5 fault(s)" in text
    assert "tasks.shapes-clips.benchmark: unknown benchmark; found 'msrvt'; expected one of " in text
    assert "frames.decoder: unknown decoder; found 'outo'" in text
    assert "frames.sampling: input should be 'uniform', " in text
    assert "methods.mv_adapter_paper: unknown method; found 'mv_adaptor'" in text
    assert "did you mean 'mv_adapter'?" in text
    assert "methods.vop_mv_adapter" in text


def test_plugins_from_outside_are_names_too() -> None:
    overrides = ["frames.decoder=outside.video:decode", "tasks.shapes-clips.benchmark=outside.data:READER"]
    params = load_params(PARAMS, [*overrides, "methods.mine={method: 'outside.methods:Mine'}"], NAMES)
    assert params.frames.decoder == "outside.video:decode"


def test_overrides_replace_and_keep_types() -> None:
    params = load_params(PARAMS, ["training.epochs=3", "run.seeds=[1, 2]", "training.weight_decay=1e-3"])
    assert (params.training.epochs, params.run.seeds, params.training.weight_decay) == (3, (1, 2), 1e-3)


@pytest.mark.parametrize("text", ["a: [1", "a: 1\na: 2\n", "- 1\n- 2\n", ""])
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        load_params(tmp_path / "params.yaml", ["training.epochs=3"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_params(tmp_path / "params.yaml")


def test_unknown_tasks_and_methods_are_named() -> None:
    params: Params = load_params(PARAMS)
    with pytest.raises(ConfigError, match="did you mean 'shapes-clips'"):
        params.task("shape-clips")
    with pytest.raises(ConfigError, match="unknown method"):
        params.method("nothing")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks={kid's films: %s}", "tasks.kid's films: name cannot be used .*; found \"kid's films\".*'kid-s-films'"),
        ("tasks={a.b: %s}", r"tasks\.a\.b: name cannot be used .*call it 'a-b'"),
        ("tasks={../up: %s}", r"name cannot be used .*; found '\.\./up'.*call it 'up'"),
        ("tasks={-x: %s}", "name cannot be used .*call it 'x'"),
        ("tasks={%s: %%s}" % ("x" * 101), "at most 100 characters"),
        ("methods={my vop: {method: vop, lr: 1.0e-3}}", "methods.my vop: name cannot be used .*call it 'my-vop'"),
        ("tracking.alias=Latest", "tracking.alias: MLflow keeps this alias for itself; found 'Latest'"),
        ("tracking.alias=v12", "MLflow keeps this alias for itself"),
        ("tracking.alias=the best", "tracking.alias: name cannot be used"),
    ],
)
def test_names_that_some_tool_does_not_take_are_refused(override: str, message: str) -> None:
    task = "{benchmark: table, root: data, frames: 4, words: 16}"
    with pytest.raises(ConfigError, match=message):
        load_params(PARAMS, [override % task if "%s" in override else override], NAMES)


def test_names_in_any_script_are_taken() -> None:
    task = "{benchmark: table, root: data, frames: 4, words: 16}"
    params = load_params(PARAMS, [f"tasks={{ferien_märz-2: {task}, 休暇: {task}, '2021': {task}}}"], NAMES)
    assert set(params.tasks) == {"ferien_märz-2", "休暇", "2021"}


def test_a_benchmark_indexes_its_test_videos_and_any_other_collection_all() -> None:
    params = load_params(PARAMS, names=NAMES)
    for benchmark in BENCHMARKS.names():
        options: dict[str, str | int | float | bool] = {"set": "msrvtt"} if benchmark == "mmeb" else {}
        task = dataclasses.replace(params.task("shapes-clips"), benchmark=benchmark, options=options)
        # YouCook2 has no counts that its files are compared with, so it may be anybody's.
        expected = "all" if benchmark in ("table", "youcook2") else "test"
        assert params.search.split_of(is_published("some", task)) == expected
    assert load_params(PARAMS, ["search.split=val"]).search.split_of(published=False) == "val"
