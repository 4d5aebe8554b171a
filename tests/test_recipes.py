"""Recipes hold the papers' settings, build every method they name, and can be written into params.yaml."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from components.backbones.clip import Backbone
from components.benchmarks import BENCHMARKS
from components.errors import ConfigError
from components.methods.build import build
from components.params import Params, load_params
from components.recipes import apply, read_recipe
from components.report.count import meta_backbone

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "params").glob("*.yaml"))
BOTH = [(path, paper) for path in RECIPES for paper in ("vop", "mv_adapter")]
BOTH.append((ROOT / "params/msrvtt.yaml", "tempme"))


@cache
def backbone(model: str) -> Backbone:
    return meta_backbone(model)


def written(tmp_path: Path, recipe: Path, paper: str) -> Params:
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    assert apply(tmp_path / "params.yaml", recipe, paper)
    return load_params(tmp_path / "params.yaml")


def test_there_is_one_for_each_benchmark() -> None:
    assert {path.stem for path in RECIPES} == {"msrvtt", "msvd", "lsmdc", "didemo", "activitynet"}
    assert all(path.stem in BENCHMARKS for path in RECIPES)


@pytest.mark.parametrize(("recipe", "paper"), BOTH, ids=lambda value: getattr(value, "stem", value))
def test_every_method_of_a_recipe_can_be_built(tmp_path: Path, recipe: Path, paper: str) -> None:
    params = written(tmp_path, recipe, paper)
    assert params.run.tasks == (recipe.stem,)
    task = params.task(recipe.stem)
    assert task.benchmark == recipe.stem
    with torch.device("meta"):
        for name in params.run.methods:
            build(name, params.method(name), backbone(params.backbone.model), frames=task.frames, words=task.words)
    assert set(params.tracking.methods) <= set(params.run.methods)
    assert params.execution.workers == 1


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_vops_published_settings(tmp_path: Path, recipe: Path) -> None:
    params = written(tmp_path, recipe, "vop")
    task, training = params.task(recipe.stem), params.training
    assert (params.backbone.model, params.backbone.pretrained) == ("ViT-B-32", "openai")
    assert (task.frames, task.words) == (12, 77)
    assert (training.epochs, training.batch_size, training.weight_decay) == (5, 32, 0.2)
    assert (training.decay, training.equal_captions) == ("all", "negatives")
    assert training.batching == "random"
    rows = {"full", "bias", "proj", "partial", "adapter_attn", "adapter_ffn"}
    rows |= {"vop", "vop_p", "vop_c", "vop_f", "vop_fp", "vop_fc"}
    assert rows <= set(params.run.methods)


@pytest.mark.parametrize(
    ("name", "frames", "words", "epochs", "batch"),
    [
        ("msrvtt", 12, 32, 5, 128),
        ("msvd", 12, 32, 5, 128),
        ("lsmdc", 12, 32, 5, 128),
        ("didemo", 32, 64, 15, 64),
        ("activitynet", 32, 64, 15, 64),
    ],
)
def test_mv_adapters_published_settings(
    tmp_path: Path, name: str, frames: int, words: int, epochs: int, batch: int
) -> None:
    params = written(tmp_path, ROOT / "params" / f"{name}.yaml", "mv_adapter")
    task, training = params.task(name), params.training
    assert (params.backbone.model, params.backbone.pretrained) == ("ViT-B-16", "openai")
    assert (task.frames, task.words, training.epochs, training.batch_size) == (frames, words, epochs, batch)
    assert (training.weight_decay, training.decay, training.equal_captions) == (0.2, "all_but_biases", "negatives")
    assert params.frames.sampling == "mv_adapter"
    assert params.run.seeds == (0, 42, 123)
    method = build("mv_adapter", params.method("mv_adapter"), backbone("ViT-B-16"), frames=frames, words=words)
    assert (method.settings.form, method.settings.lr, method.settings.scale) == ("paper", 5e-6, 0.1)
    released = build("x", params.method("mv_adapter_released"), backbone("ViT-B-16"), frames=frames, words=words)
    assert (released.settings.form, released.settings.train_biases, released.settings.bias_lr) == (
        "released",
        True,
        1e-7,
    )


def test_a_file_without_the_new_keys_keeps_its_results(tmp_path: Path) -> None:
    lines = (ROOT / "params.yaml").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(("  decay:", "  equal_captions:"))]
    assert len(kept) == len(lines) - 2
    (tmp_path / "params.yaml").write_text("".join(kept))
    training = load_params(tmp_path / "params.yaml").training
    assert (training.decay, training.equal_captions) == ("matrices", "negatives")


class TestFaults:
    def test_unknown_section(self) -> None:
        with pytest.raises(ConfigError, match="found 'vopp'; expected one of tempme, discovla, vop, mv_adapter"):
            read_recipe(ROOT / "params/msrvtt.yaml", "vopp")

    def test_no_such_file(self) -> None:
        with pytest.raises(ConfigError, match="a file in params/"):
            read_recipe(ROOT / "params/msrvt.yaml", "vop")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: 3", "not a recipe"),
            ("a: {training: {epocs: 3}}", r"training.epocs: unknown key \(did you mean 'epochs'\?\)"),
            ("a: {training: {workers: 2}}", "training.workers"),
            ("a: {trainin: {epochs: 3}}", r"found 'trainin'.*did you mean 'training'"),
            ("a: {training: {epochs: many}}", "training.epochs"),
            ("a: {training: {epochs: many}, execution: {worker: 2}}", r"(?s)training.epochs.*execution.worker:"),
        ],
    )
    def test_nothing_is_written(self, tmp_path: Path, text: str, message: str) -> None:
        shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            apply(tmp_path / "params.yaml", tmp_path / "mine.yaml", "a")
        assert (tmp_path / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_a_recipe_may_set_training_and_execution(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "mine.yaml").write_text("a: {training: {epochs: 7, max_grad_norm: 0.5}, execution: {workers: 8}}")
    changed = apply(tmp_path / "params.yaml", tmp_path / "mine.yaml", "a")
    assert changed == ["training.epochs: 6 -> 7", "training.max_grad_norm: 1.0 -> 0.5", "execution.workers: 2 -> 8"]
    params = load_params(tmp_path / "params.yaml")
    assert (params.training.epochs, params.training.max_grad_norm, params.execution.workers) == (7, 0.5, 8)


def test_the_script_keeps_comments_and_says_what_changed(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    command = [sys.executable, "pipelines/recipe.py", "params/lsmdc.yaml", "vop", "--root", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "training.epochs: 6 -> 5" in done.stdout
    text = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    assert "# passes over the training videos" in text
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ": 0 settings" in again.stdout
