"""Search spaces as written on the command line, and the table of trials."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_world

from components.errors import ConfigError
from components.training.job import Job
from components.training.search_space import Choice, Range, default_space, parse_space, start_values
from components.training.trial import Trial, table


def test_ranges_and_choices() -> None:
    space = parse_space(["lr=1e-3..1e-1", "bottleneck=8,16", "training.epochs=2..5", "form=paper,released"], "m")
    assert space == {
        "methods.m.lr": Range(1e-3, 1e-1, whole=False),
        "methods.m.bottleneck": Choice((8, 16)),
        "training.epochs": Range(2, 5, whole=True),
        "methods.m.form": Choice(("paper", "released")),
    }


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("lr", "not a search space"),
        ("=1..2", "not a search space"),
        ("lr=", "not a search space"),
        ("lr=2e-2..1e-2", "not a range"),
        ("lr=0.0..1e-2", "not a range"),
        ("lr=a..b", "not a range"),
        ("lr=1..true", "not a range"),
    ],
)
def test_anything_else_is_refused(item: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_space([item], "m")


def test_by_default_the_learning_rate_is_searched_around_its_value(tmp_path: Path) -> None:
    tiny_world.write_params(tmp_path)
    params = tiny_world.params(tmp_path)
    space = default_space(Job.of(tmp_path, params, tiny_world.TASK, "vop", 0))
    assert space == {"methods.vop.lr": Range(tiny_world.LR / 10, tiny_world.LR * 10, whole=False)}
    with pytest.raises(ConfigError, match=r"zero_shot: nothing to search by default"):
        default_space(Job.of(tmp_path, params, tiny_world.TASK, "zero_shot", 0))


def test_the_first_trial_has_the_values_of_params_yaml_that_the_space_holds(tmp_path: Path) -> None:
    tiny_world.write_params(tmp_path)
    job = Job.of(tmp_path, tiny_world.params(tmp_path, "methods.vop.lr=0.5"), tiny_world.TASK, "vop", 0)
    items = ["lr=0.1..0.9", "video_prompts=8,16", "text_prompts=1..2", "training.epochs=1..9"]
    assert start_values(job, parse_space(items, "vop")) == {"methods.vop.lr": 0.5, "methods.vop.video_prompts": 8}


def test_the_table_puts_full_trainings_first_and_marks_the_others() -> None:
    trials = [
        Trial({"methods.m.lr": 0.5}, 1, {"t2v_R@1": 99.0, "v2t_R@1": 9.0}),
        Trial({"methods.m.lr": 0.25}, 3, {"t2v_R@1": 40.0, "v2t_R@1": 8.0}),
        Trial({"methods.m.lr": 0.125}, 0, {}, "boom"),
    ]
    lines = table(sorted(trials, key=lambda trial: trial.order), 3).splitlines()
    assert "methods.m.lr=0.25" in lines[1]
    assert "<" not in lines[1]
    assert "methods.m.lr=0.5" in lines[2]
    assert "<" in lines[2]
    assert "boom" in lines[3]
    assert lines[-1] == "best: methods.m.lr=0.25"
