"""The loop: one seed gives one result, a resume changes nothing, nor do more processes, and errors name the cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gloo
import pytest
import tiny_world
import torch
from torch import Tensor

from components.backbones.load import load_backbone
from components.errors import ConfigError, TrainingError
from components.evaluation.card import Identity
from components.evaluation.encode import encode_split
from components.evaluation.scorecard import make_scorecard
from components.evaluation.validation import Validation
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.base import MAX_SCALE, Method
from components.methods.build import build
from components.training.checkpoint import Checkpoints
from components.training.job import Job
from components.training.loop import Result, fit
from components.training.readings import Readings
from components.training.selection import check_selection
from components.training.settings import ExecutionSettings, TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")
VALIDATION = Validation(batch_size=5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    tiny_world.write_project(folder)
    return folder


def make(root: Path, name: str = "mv_adapter", seed: int = 0, **changes: Any) -> Method:
    params = tiny_world.params(root)
    backbone = load_backbone(params.backbone, root)
    torch.manual_seed(seed)
    return build(name, {**params.method(name), **changes}, backbone, frames=tiny_world.FRAMES, words=16)


def train(
    root: Path,
    method: Method,
    settings: TrainingSettings,
    execution: ExecutionSettings | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> Result:
    store = FrameStore(root / "outputs" / "frames" / tiny_world.TASK)
    return fit(method, store, settings, execution or tiny_world.execution(root), seed, **kwargs)


def trained(
    root: Path, name: str, settings: TrainingSettings, seed: int = 0, **changes: Any
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Parameters and curve of a training from scratch."""
    method = make(root, name, seed, **changes)
    result = train(root, method, settings, seed=seed, validate=VALIDATION)
    return {key: p.detach().clone() for key, p in method.trainable().items()}, result.curve


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_one_seed_one_adapter(root: Path) -> None:
    settings = tiny_world.training(root)
    first, curve = trained(root, "mv_adapter", settings)
    again, same_curve = trained(root, "mv_adapter", settings)
    other, _ = trained(root, "mv_adapter", settings, seed=1)
    assert equal(first, again)
    assert curve == same_curve
    assert not equal(first, other)
    assert not equal(first, dict(make(root).trainable()))


def test_decoding_threads_change_nothing(root: Path) -> None:
    methods = make(root), make(root)
    for method, threads in zip(methods, (1, 8), strict=True):
        train(root, method, tiny_world.training(root), tiny_world.execution(root, decode_threads=threads, cache_mib=0))
    assert equal(dict(methods[0].trainable()), dict(methods[1].trainable()))


def test_late_readings_give_the_same_result_and_save_nothing_bad(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, rarely = tiny_world.training(root, epochs=4), tiny_world.execution(root, checkpoint_steps=5)
    lines: dict[int, list[tuple[int, float]]] = {0: [], 4: []}
    methods = {late: make(root) for late in lines}
    curves = {}
    for late, method in methods.items():
        monkeypatch.setattr(Readings, "on", classmethod(lambda cls, device, late=late: cls(late)))

        def log(step: int, row: dict[str, float], late: int = late) -> None:
            lines[late].append((step, row.get("loss", 0.0)))

        curves[late] = train(root, method, settings, rarely, validate=VALIDATION, log=log).curve
    assert equal(dict(methods[0].trainable()), dict(methods[4].trainable()))
    assert lines[0] == lines[4]
    assert curves[0] == curves[4]
    broken, checkpoints = make(root), Checkpoints(tmp_path, keep=2)
    with torch.no_grad():
        next(iter(broken.trainable().values())).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"loss nan and gradient norm nan at step 1;"):
        train(root, broken, settings, tiny_world.execution(root, checkpoint_steps=2), checkpoints=checkpoints)
    assert not list(tmp_path.iterdir())


def test_the_curve_and_the_log(root: Path) -> None:
    settings = tiny_world.training(root, epochs=5, validation_every=2)
    lines: list[tuple[int, dict[str, float]]] = []
    result = train(root, make(root), settings, validate=VALIDATION, log=lambda step, row: lines.append((step, row)))
    assert [(row["epoch"], row["step"]) for row in result.curve] == [(2, 6), (4, 12), (5, 15)]
    assert all({"loss", "t2v_R@1", "v2t_MnR"} <= row.keys() for row in result.curve)
    assert [step for step, row in lines if "loss" in row] == [10, 15]
    assert [step for step, row in lines if "val_t2v_R@1" in row] == [6, 12, 15]
    steps = [row for _, row in lines if "loss" in row]
    assert steps[0].keys() == {
        "loss", "gradient_norm", "lr", "logit_scale", "samples_per_second", "frames_per_second", "data_wait_share",
        "peak_memory_mib",
    }  # fmt: skip
    # Every fifth video has three frames instead of four.
    assert steps[0]["frames_per_second"] == pytest.approx(3.8 * steps[0]["samples_per_second"], rel=0.1)
    assert 50 < steps[0]["peak_memory_mib"] < 50_000
    assert result.steps == 15
    assert result.epoch == 5


def test_training_learns(root: Path) -> None:
    result = train(root, make(root, "full"), tiny_world.training(root, epochs=9, validation_every=3, batching="random"))
    losses = [row["loss"] for row in result.curve]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", ["mv_adapter", "vop"])
def test_training_leaves_the_backbone_alone(root: Path, name: str) -> None:
    method = make(root, name)
    before = {name: p.detach().clone() for name, p in method.named_parameters() if not p.requires_grad}
    train(root, method, tiny_world.training(root))
    after = dict(method.named_parameters())
    assert len(before) > 50
    assert all(torch.equal(after[name], value) for name, value in before.items())


class StopError(Exception):
    """Acts like a kill: nothing after it runs."""


@pytest.mark.parametrize(("select_on", "stop_after"), [("last", 1), ("val", 3)])
def test_resumed_equals_uninterrupted(root: Path, tmp_path: Path, select_on: str, stop_after: int) -> None:
    settings = tiny_world.training(root, epochs=4, select_on=select_on, validation_every=1)
    rarely = tiny_world.execution(root, checkpoint_steps=100)
    whole = make(root)
    expected = train(root, whole, settings, rarely, validate=VALIDATION)
    checkpoints = Checkpoints(tmp_path, keep=2)

    def stop(step: int, metrics: dict[str, float]) -> None:
        # In the epoch after a checkpoint, so that some steps run twice.
        if checkpoints.steps()[:1] == [3 * stop_after] and "val_t2v_R@1" in metrics:
            raise StopError

    with pytest.raises(StopError):
        train(root, make(root), settings, rarely, validate=VALIDATION, checkpoints=checkpoints, log=stop)
    resumed = make(root)
    result = train(root, resumed, settings, rarely, validate=VALIDATION, checkpoints=checkpoints)
    assert equal(dict(resumed.trainable()), dict(whole.trainable()))
    assert (result.curve, result.epoch) == (expected.curve, expected.epoch)


def test_metrics_that_were_lost_with_a_process_are_logged_again(root: Path, tmp_path: Path) -> None:
    settings = tiny_world.training(root, epochs=8, validation_every=4)
    checkpoints, often = Checkpoints(tmp_path, keep=1), tiny_world.execution(root, checkpoint_steps=4)

    def lose(step: int, metrics: dict[str, float]) -> None:
        if step == 20:
            raise StopError

    with pytest.raises(StopError):
        train(root, make(root), settings, often, validate=VALIDATION, checkpoints=checkpoints, log=lose)
    assert checkpoints.steps() == [16]
    lines: list[tuple[int, bool]] = []
    log = lambda step, row: lines.append((step, "val_t2v_R@1" in row))  # noqa: E731
    train(root, make(root), settings, often, validate=VALIDATION, checkpoints=checkpoints, log=log)
    assert lines == [(10, False), (12, True), (20, False), (24, False), (24, True)]


def test_resumed_within_an_epoch(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = tiny_world.training(root, epochs=4, validation_every=4)
    whole = make(root)
    expected = train(root, whole, settings, validate=VALIDATION)
    checkpoints, often = Checkpoints(tmp_path, keep=1), tiny_world.execution(root, checkpoint_steps=4)

    def stop(step: int, metrics: dict[str, float]) -> None:
        raise StopError

    with pytest.raises(StopError):
        train(root, make(root), settings, often, validate=VALIDATION, checkpoints=checkpoints, log=stop)
    # An epoch has three steps, and metrics are logged after ten.
    assert checkpoints.steps() == [8]
    resumed = make(root)
    with caplog.at_level("INFO"):
        result = train(root, resumed, settings, often, validate=VALIDATION, checkpoints=checkpoints)
    assert "resumed after step 8 of 12" in caplog.text
    assert equal(dict(resumed.trainable()), dict(whole.trainable()))
    assert result.curve == expected.curve


def test_selection_on_validation_keeps_the_best_epoch(root: Path) -> None:
    scores = iter([10.0, 30.0, 20.0, 30.0])
    states: list[dict[str, Tensor]] = []

    class Scores(Validation):
        def __call__(self, method: Method, *_: object) -> dict[str, float]:
            states.append({name: p.detach().clone() for name, p in method.trainable().items()})
            return {"t2v_R@1": next(scores)}

    method = make(root)
    result = train(root, method, tiny_world.training(root, epochs=4, select_on="val"), validate=Scores(batch_size=5))
    assert result.epoch == 2
    assert equal(dict(method.trainable()), states[1])
    assert not method.training


def test_a_precision_that_validation_cannot_have_is_refused_before_the_first_step(root: Path) -> None:
    steps: list[int] = []
    validation = Validation(batch_size=5, precision="tf32")
    with pytest.raises(ConfigError, match=r"evaluation\.precision.*only NVIDIA GPUs.*found 'tf32'"):
        train(root, make(root), tiny_world.training(root), validate=validation, log=lambda step, _: steps.append(step))
    assert not steps


def test_selection_on_test_measures_and_names_the_test_split(root: Path) -> None:
    """The kept epoch is the best on the test split, and none of its metrics is named after validation."""
    settings = tiny_world.training(root, epochs=3, select_on="test")
    logged: list[str] = []
    method, on_test = make(root), Validation(batch_size=5, on_test=True)
    result = train(root, method, settings, validate=on_test, log=lambda step, row: logged.extend(row))
    best = max(result.curve, key=lambda row: (row["t2v_R@1"], -row["epoch"]))
    assert result.epoch == best["epoch"]
    assert "test_t2v_R@1" in logged
    assert not [name for name in logged if name.startswith("val_")]
    store = FrameStore(root / "outputs" / "frames" / tiny_world.TASK)
    reader = FrameReader(store, method.backbone.resize, method.frames, cache_mib=0)
    identity = Identity(task=tiny_world.TASK, method="vop", seed=0)
    card = make_scorecard(encode_split(method, store, reader, "test", 5), store.manifest, "test", identity).card
    assert {name: value for name, value in best.items() if name.startswith("t2v_")} == {
        f"t2v_{name}": value for name, value in card.metrics["all"]["t2v"].items()
    }


def test_a_method_without_parameters_is_only_measured(root: Path) -> None:
    lines: list[tuple[int, dict[str, float]]] = []
    result = train(
        root, make(root, "zero_shot"), tiny_world.training(root), validate=VALIDATION,
        log=lambda step, row: lines.append((step, row)),
    )  # fmt: skip
    assert [row["epoch"] for row in result.curve] == [0]
    assert result.steps == 0
    assert [step for step, _ in lines] == [0]


def test_a_loss_that_is_no_number_names_the_videos(root: Path) -> None:
    method = make(root)
    with torch.no_grad():
        next(iter(method.trainable().values())).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"videos train0\d\d, train0.*loss nan and gradient norm nan at step 1;"):
        train(root, method, tiny_world.training(root))


# A method, its settings and those of the training. Batches are odd and the last is short, so that micro-batches differ
# in size and one is empty.
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("mv_adapter", {}, {}),
    ("vop", {}, {"augmentation": "crop_flip"}),
    ("full", {}, {"captions_per_video": 2, "grad_cache": True}),
    ("bias", {"train_logit_scale": True}, {"precision": "bfloat16"}),
    ("seq_transf", {}, {"cache_frozen": True, "checkpoint_activations": True}),
]


def all_cases(root: Path) -> list[tuple[dict[str, Tensor], list[dict[str, float]]]]:
    """The results of all cases. The processes of a group run this too."""
    odd: dict[str, Any] = {"batch_size": 7, "hard_group": 3, "last_batch": "keep"}
    return [trained(root, name, tiny_world.training(root, **odd, **more), **raw) for name, raw, more in CASES]


def test_any_number_of_processes_trains_the_same(root: Path, tmp_path: Path) -> None:
    """Bit for bit, if each has the same number of threads."""
    expected = all_cases(root)
    for world in (2, 4):
        for found in gloo.spawn(world, all_cases, tmp_path / str(world), root):
            for case, (parameters, curve), (theirs, their_curve) in zip(CASES, expected, found, strict=True):
                assert equal(parameters, theirs), (world, case)
                assert curve == their_curve


def test_a_trained_logit_scale_leaves_its_limit(root: Path) -> None:
    """Released CLIPs start just above the limit, where the clamp passes no gradient."""
    method = make(root, "bias", train_logit_scale=True)
    assert method.log_scale is not None
    with torch.no_grad():
        method.log_scale.fill_(4.6052)
    before = float(method.logit_scale.detach())
    train(root, method, tiny_world.training(root))
    assert before == MAX_SCALE
    # Before training, pairs match by chance, so a smaller factor loses less.
    assert float(method.logit_scale.detach()) < 0.999 * MAX_SCALE
    with torch.no_grad():
        method.log_scale.fill_(5.0)
    method.clamp_scale()
    assert MAX_SCALE * (1 - 1e-6) < float(method.log_scale.detach().exp()) <= MAX_SCALE


def test_half_precision_keeps_float32_parameters(root: Path, tmp_path: Path) -> None:
    """Moments stay float32 too, although the results differ from those of float32."""
    method, exact, checkpoints = make(root), make(root), Checkpoints(tmp_path, keep=2)
    settings = tiny_world.training(root, precision="bfloat16")
    result = train(root, method, settings, checkpoints=checkpoints)
    assert all(p.dtype == torch.float32 for p in method.trainable().values())
    found = checkpoints.latest()
    assert found is not None
    moments = [state[key] for state in found[1]["optimiser"]["state"].values() for key in ("exp_avg", "exp_avg_sq")]
    assert len(moments) == 2 * len(method.trainable())
    assert all(moment.dtype == torch.float32 for moment in moments)
    expected = train(root, exact, tiny_world.training(root))
    assert result.curve[-1]["loss"] != expected.curve[-1]["loss"]
    assert result.curve[-1]["loss"] == pytest.approx(expected.curve[-1]["loss"], rel=0.02)


@pytest.mark.parametrize(("select_on", "val", "failed"), [("val", 0, 0), ("test", 4, 4)])
def test_an_epoch_is_selected_on_videos_that_are_there(
    root: Path, tmp_path: Path, select_on: str, val: int, failed: int
) -> None:
    tiny_world.write_store(tmp_path, tiny_world.videos(24, val, 4), failed)
    store = FrameStore(Layout(tmp_path).frames(tiny_world.TASK))
    with pytest.raises(TrainingError, match=rf"no video to select an epoch on.*'{select_on}'.*select_on: last"):
        check_selection(store, tiny_world.training(root, select_on=select_on))
    check_selection(store, tiny_world.training(root, select_on="last"))


def test_data_that_make_no_batch(root: Path, tmp_path: Path) -> None:
    tiny_world.write_store(tmp_path, tiny_world.videos(0, 2, 2))
    with pytest.raises(TrainingError, match="no training videos"):
        train(tmp_path, make(root), tiny_world.training(root), tiny_world.execution(root))
    with pytest.raises(TrainingError, match=r"execution\.workers.*found 3.*a divisor of training\.micro_batches, 4"):
        Job.of(root, tiny_world.params(root, "execution.workers=3"), tiny_world.TASK, "vop", 0).plan()
    with pytest.raises(TrainingError, match=r"training\.micro_batches.*found 9.*at most training\.batch_size, 8"):
        train(root, make(root), tiny_world.training(root, micro_batches=9))
