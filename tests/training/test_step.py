"""A step's gradients equal those of the whole batch in one graph, however it is split, kept or recomputed."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gloo
import pytest
import tiny_world
import torch
from families import family_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.load import load_backbone
from components.backbones.towers import Chain, Flow, Hooks
from components.errors import ConfigError, TrainingError
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method
from components.methods.build import build
from components.training.batch import Batch
from components.training.frozen import first_trained_layer
from components.training.gradients import TreeSum, sum_over_processes
from components.training.loader import make_loader
from components.training.loss import multi_positive_nce, sigmoid_loss
from components.training.passes import divide
from components.training.step import StepGradients

pytestmark = pytest.mark.usefixtures("one_thread")
SEED = 5
Gradients = dict[str, Tensor]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    tiny_world.write_project(folder, train=14)
    return folder


def make(root: Path, name: str, **changes: Any) -> Method:
    """A method with perturbed parameters, so that initial zeros hide nothing."""
    params = tiny_world.params(root)
    torch.manual_seed(1)
    raw = changes if "method" in changes else {**params.method(name), **changes}
    method = build(name, raw, load_backbone(params.backbone, root), frames=tiny_world.FRAMES, words=16)
    with torch.no_grad():
        for parameter in method.trainable().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return method.train()


def batch_and_step(root: Path, method: Method, frozen_mib: int = 0, **changes: Any) -> tuple[Batch, StepGradients]:
    """The first batch, of seven videos."""
    settings = tiny_world.training(root, batch_size=7, batching="random", **changes)
    store = FrameStore(root / "outputs" / "frames" / tiny_world.TASK)
    reader = FrameReader(store, method.backbone.resize, method.frames, cache_mib=1)
    micro_batches = divide(method, settings).micro_batches
    batch = next(make_loader(method, store, settings, SEED, reader, micro_batches).batches(0, 1))
    return batch, StepGradients(method, settings, SEED, frozen_mib)


def gradients(root: Path, name: str, raw: dict[str, Any] | None = None, **changes: Any) -> tuple[float, Gradients]:
    """Loss and gradients of the first step. The processes of a group run this too."""
    method = make(root, name, **raw or {})
    batch, step = batch_and_step(root, method, **changes)
    loss = step.backward(batch, 0)
    return float(loss), found_gradients(method)


def found_gradients(method: Method) -> Gradients:
    return {key: p.grad for key, p in method.trainable().items() if p.grad is not None}


def expected_gradients(root: Path, name: str, raw: dict[str, Any], **changes: Any) -> tuple[float, Gradients]:
    """The reference: autograd through the whole batch at once."""
    method = make(root, name, **raw)
    batch, _ = batch_and_step(root, method, micro_batches=1, **changes)
    video, text = method(method.backbone.normalize(batch.frames), batch.mask, batch.tokens)
    positives = changes.get("equal_captions") == "positives"
    loss = multi_positive_nce(
        video, text, method.logit_scale, batch.owner, batch.same_text, positives, method.similarity
    )
    loss.backward()
    return float(loss.detach()), found_gradients(method)


def compare(found: tuple[float, Gradients], expected: tuple[float, Gradients]) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    assert expected[1].keys() <= found[1].keys()
    for key, gradient in found[1].items():
        wanted = expected[1].get(key, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in expected[1].values()) > 1e-4


LATE = "lora_late", {"method": ["lora", "late"], "lr": 1e-2, "train_logit_scale": True}
METHODS = [("mv_adapter", {}), ("vop", {"text_prompts": 0}), ("full", {}), ("bias", {"train_logit_scale": True}), LATE]


@pytest.mark.parametrize(("name", "raw"), METHODS)
@pytest.mark.parametrize("captions", [1, 2])
def test_micro_batches_have_the_gradients_of_the_whole_batch(
    root: Path, name: str, raw: dict[str, Any], captions: int
) -> None:
    expected = expected_gradients(root, name, raw, captions_per_video=captions)
    for changes in ({}, {"grad_cache": True, "micro_batches": 7}, {"checkpoint_activations": True}):
        compare(gradients(root, name, raw, captions_per_video=captions, **changes), expected)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_have_the_gradients_of_the_whole_batch(root: Path, tmp_path: Path, world: int) -> None:
    """They are not divided by the number of processes, and that of the logit scale is not multiplied by it."""
    expected = expected_gradients(root, "bias", {"train_logit_scale": True})
    for found in gloo.spawn(world, with_bias, tmp_path, root):
        compare(found, expected)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of fourteen training videos, of which two and two have the same captions."""
    folder = tmp_path_factory.mktemp("repeated")
    tiny_world.write_params(folder)
    tiny_world.write_backbone(folder)
    made = tiny_world.videos(14, 2, 2)
    tiny_world.write_store(
        folder, tuple(replace(v, captions=made[row % 7].captions) if row < 14 else v for row, v in enumerate(made))
    )
    return folder


@pytest.mark.parametrize("mode", ["masked", "positives"])
def test_shared_captions_count_the_same_in_any_process(repeated: Path, tmp_path: Path, mode: str) -> None:
    raw, captions = {"train_logit_scale": True}, {"captions_per_video": 2, "equal_captions": mode}
    expected = expected_gradients(repeated, "bias", raw, **captions)
    if mode == "masked":
        # The towers are random, so all scores are near, and taking them together changes little.
        plain = expected_gradients(repeated, "bias", raw, captions_per_video=2)
        assert any((expected[1][key] - plain[1][key]).abs().max() > 1e-4 for key in plain[1])
    compare(gradients(repeated, "bias", raw, micro_batches=3, grad_cache=True, **captions), expected)
    for found in gloo.spawn(2, with_shared, tmp_path, repeated, mode):
        compare(found, expected)


def test_hard_groups_leave_equal_captions_out(repeated: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The nearest video to any is the one with the same captions, and by default both are in one group."""
    method = make(repeated, "bias")
    store = FrameStore(repeated / "outputs" / "frames" / tiny_world.TASK)
    reader = FrameReader(store, method.backbone.resize, method.frames, cache_mib=1)
    together = {}
    for mode in ("negatives", "masked"):
        settings = tiny_world.training(repeated, batch_size=14, hard_group=2, equal_captions=mode)
        plan = make_loader(method, store, settings, SEED, reader, 1).plan
        groups = plan.epoch(0).videos[0][:12].reshape(6, 2) % 7
        together[mode] = int((groups[:, 0] == groups[:, 1]).sum())
    assert together == {"negatives": 6, "masked": 0}
    assert [record.message.partition(",")[0] for record in caplog.records] == [
        "14 of 14 training videos have a caption that another video has too"
    ]


def with_shared(root: Path, mode: str) -> tuple[float, Gradients]:
    changes = {"captions_per_video": 2, "equal_captions": mode, "micro_batches": 6}
    return gradients(root, "bias", {"train_logit_scale": True}, **changes)


def test_processes_of_late_interaction(root: Path, tmp_path: Path) -> None:
    """They gather rows of a vector per frame and per word."""
    expected = expected_gradients(root, *LATE)
    for found in gloo.spawn(2, with_late, tmp_path, root):
        compare(found, expected)


def with_late(root: Path) -> tuple[float, Gradients]:
    return gradients(root, *LATE, micro_batches=6)


def with_bias(root: Path) -> tuple[float, Gradients]:
    return gradients(root, "bias", {"train_logit_scale": True}, micro_batches=6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("keeping", [{"grad_cache": True}, {"checkpoint_activations": True}])
def test_recomputation_repeats_dropout(
    root: Path, keeping: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Method.pool
    monkeypatch.setattr(Method, "pool", lambda self, x, mask: original(self, F.dropout(x, 0.3), mask))
    plain = gradients(root, "bias", precision=precision)
    again = gradients(root, "bias", precision=precision, **keeping)
    assert plain[0] == again[0]
    assert all(torch.equal(plain[1][key], again[1][key]) for key in plain[1])
    monkeypatch.undo()
    assert plain[0] != gradients(root, "bias", precision=precision)[0]


class Live:
    """Counts the bytes that autograd holds for backward passes, now and at the peak."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    @contextmanager
    def counted(self, method: Method) -> Iterator[None]:
        parameters = {p.data_ptr() for p in method.parameters()}

        def pack(tensor: Tensor) -> Any:
            if tensor.data_ptr() in parameters:
                return tensor
            self.now += tensor.nbytes
            self.peak = max(self.peak, self.now)
            held = _Held(tensor)
            weakref.finalize(held, self._free, tensor.nbytes)
            return held

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: getattr(held, "tensor", held)):
            yield

    def _free(self, size: int) -> None:
        self.now -= size


class _Held:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def peak(root: Path, name: str, **changes: Any) -> int:
    method, live = make(root, name), Live()
    batch, step = batch_and_step(root, method, **changes)
    with live.counted(method):
        step.backward(batch, 0)
    assert live.now == 0
    return live.peak


def test_grad_cache_holds_one_micro_batch(root: Path) -> None:
    plain = peak(root, "full", micro_batches=7)
    cached = peak(root, "full", micro_batches=7, grad_cache=True)
    assert cached < plain / 6


def test_nothing_is_kept_below_the_first_trained_layer(root: Path) -> None:
    """With an adapter in the last layer of both towers, the frozen layers below make no graph."""
    seen: dict[str, list[bool]] = {"vision": [], "text": []}

    class Recorder(Hooks):
        def __init__(self, side: str) -> None:
            self.side = side

        def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
            seen[self.side].append(x.requires_grad)
            return x

    method = make(root, "adapter_ffn", vision_layers=[-1], text_layers=[-1])
    spec = method.spec
    hooks = {"vision": method.vision_hooks(), "text": method.text_hooks()}
    method.vision_hooks = lambda: Chain([Recorder("vision"), hooks["vision"]])  # type: ignore[method-assign]
    method.text_hooks = lambda: Chain([Recorder("text"), hooks["text"]])  # type: ignore[method-assign]
    batch, step = batch_and_step(root, method, micro_batches=1)
    step.backward(batch, 0)
    assert seen == {"vision": [False] * spec.vision_layers, "text": [False] * spec.text_layers}
    assert found_gradients(method)


@pytest.mark.parametrize(
    ("name", "raw", "skipped"),
    [
        ("seq_transf", {}, 4),
        ("coop", {}, 4),
        ("proj", {}, 4),
        ("adapter_ffn", {"vision_layers": [1, 3]}, 1),
        ("partial", {"layers": 2}, 2),
        ("vop", {"video_layers": [2]}, 2),
        ("mv_adapter", {}, 0),
        ("vop_f", {"intra_layers": 2, "video_prompts": 0}, 2),
    ],
)
def test_frozen_layers_are_computed_once(root: Path, name: str, raw: dict[str, Any], skipped: int) -> None:
    """The gradients stay the same, also in the second step, when all comes from the cache or nothing fits in it."""
    method = make(root, name, **raw)
    assert first_trained_layer(method) == skipped <= method.spec.vision_layers == 4
    batch, plain = batch_and_step(root, method)
    loss = float(plain.backward(batch, 0))
    expected = loss, found_gradients(method)
    found = {}
    for cache_mib in (100, 0):
        _, step = batch_and_step(root, method, cache_mib, cache_frozen=True, grad_cache=True)
        for _ in range(2):
            found[cache_mib] = float(step.backward(batch, 0)), found_gradients(method)
            compare(found[cache_mib], expected)
        assert step.frozen is not None
        assert len(step.frozen._cache) == (len(batch.ids) if skipped and cache_mib else 0)
    assert found[100][0] == found[0][0]
    assert all(torch.equal(gradient, found[0][1][key]) for key, gradient in found[100][1].items())


def test_changing_frames_have_no_frozen_layers(root: Path) -> None:
    with pytest.raises(TrainingError, match=r"training\.cache_frozen.*found 'true with augmentation: crop_flip'"):
        batch_and_step(root, make(root, "proj"), cache_frozen=True, augmentation="crop_flip")


def test_the_tree_adds_in_one_order() -> None:
    """The order is ((a + b) + (c + d)) + (e + f), from single terms and from subtrees. The sum depends on it."""
    numbers = [torch.tensor([value]) for value in (1e8, 2.0, -1e8, 5.0, 7.0, 1.5)]

    def total(terms: list[Tensor | None]) -> float:
        tree = TreeSum()
        for term in terms:
            tree.add([None if term is None else term.clone()])
        (found,) = tree.total()
        assert found is not None
        return float(found)

    a, b, c, d, e, f = (number.clone() for number in numbers)
    assert total(list(numbers)) == float(((a + b) + (c + d)) + (e + f))
    assert total(list(numbers)) != float(sum(number.double() for number in numbers))
    assert total([a + b, c + d, e + f]) == total(list(numbers))
    assert total([None, b, None, d]) == float(b + d)


def test_a_parameter_without_gradient_counts_as_zero() -> None:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    sums = sum_over_processes(parameters, [None, torch.full((3,), 2.0)])
    assert [grad.tolist() for grad in sums] == [[0, 0], [2, 2, 2]]


def test_sigmoid_loss_of_a_backbone_with_a_bias(root: Path) -> None:
    """SigLIP's loss by default, in any number of micro-batches, with a gradient of scale and bias."""
    params = tiny_world.params(root)
    raw = {**params.method("bias"), "train_logit_scale": True}
    backbone = family_backbone("siglip")
    found: list[tuple[float, Gradients]] = []
    for changes in ({"micro_batches": 1}, {"micro_batches": 7, "grad_cache": True}, {"loss": "sigmoid"}):
        torch.manual_seed(1)
        method = build("bias", raw, backbone, frames=tiny_world.FRAMES, words=16)
        batch, step = batch_and_step(root, method, **changes)
        found.append((float(step.backward(batch, 0)), found_gradients(method)))
    video, text = method(method.backbone.normalize(batch.frames), batch.mask, batch.tokens)
    for parameter in method.trainable().values():
        parameter.grad = None
    assert method.logit_bias is not None
    loss = sigmoid_loss(video, text, method.logit_scale, method.logit_bias, batch.owner)
    loss.backward()
    expected = float(loss.detach()), found_gradients(method)
    assert {"log_scale", "trained_bias"} < set(expected[1])
    for each in found:
        compare(each, expected)
    batch, step = batch_and_step(root, method, loss="softmax")
    assert abs(float(step.backward(batch, 0)) - expected[0]) > 1e-2


def test_a_sigmoid_loss_needs_a_bias(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.loss: the backbone has no logit bias"):
        batch_and_step(root, make(root, "bias"), loss="sigmoid")
