"""How many passes a batch takes: the fewest that fit, the same for a resumed training."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_world
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.backbones import mini
from components.backbones.load import load_backbone
from components.errors import ConfigError, TrainingError
from components.frames.store import FrameStore
from components.methods.base import Method
from components.methods.build import build
from components.params import load_params
from components.report.count import count, meta_backbone
from components.training.checkpoint import Checkpoints
from components.training.loop import fit
from components.training.passes import FILE, Passes, candidates, divide, fits_device
from components.training.utilisation import flops_per_video

SETTINGS = load_params(Path(__file__).resolve().parents[2] / "params.yaml").training


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    tiny_world.write_project(folder)
    return folder


def make(root: Path, name: str = "bias") -> Method:
    params = tiny_world.params(root)
    torch.manual_seed(0)
    return build(name, params.method(name), load_backbone(params.backbone, root), frames=tiny_world.FRAMES, words=16)


def room_for(videos: int, batch_size: int) -> Callable[[Passes], bool]:
    """A machine that has memory for the graphs of this many videos."""
    return lambda passes: passes.videos_at_once(batch_size, 1) <= videos


def test_a_batch_that_fits_takes_one_pass(root: Path) -> None:
    settings = tiny_world.training(root, micro_batches="auto", batch_size=8)
    assert divide(make(root), settings) == Passes(1, False)
    assert divide(make(root), settings, fits=room_for(8, 8)) == Passes(1, False)


@given(st.integers(1, 64), st.integers(2, 64))
def test_auto_takes_the_fewest_passes_that_fit(room: int, batch_size: int) -> None:
    settings = dataclasses.replace(SETTINGS, batch_size=batch_size)
    fits = room_for(room, batch_size)
    tried = list(candidates(settings, 1))
    assert [passes.micro_batches for passes in tried] == [2**n for n in range(batch_size.bit_length())]
    chosen = next((passes for passes in tried if fits(passes)), None)
    if chosen is not None:
        rows = -(-batch_size // chosen.micro_batches)
        assert rows <= room
        assert chosen.micro_batches == 1 or -(-batch_size // (chosen.micro_batches // 2)) > room


def test_a_smaller_memory_takes_more_passes_and_gives_the_same_gradients(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The choice is written next to the checkpoints, and a resumed training keeps it whatever memory it finds."""
    caplog.set_level(logging.INFO)
    settings = tiny_world.training(root, micro_batches="auto", batch_size=8)
    found = divide(make(root), settings, tmp_path, fits=room_for(3, 8))
    assert found == Passes(4, True)
    assert json.loads((tmp_path / FILE).read_text()) == {"micro_batches": 4, "grad_cache": True}
    assert "micro_batches: auto is 4: 4 passes of 2 videos per process with GradCache" in caplog.text
    assert divide(make(root), settings, tmp_path, fits=room_for(8, 8)) == found

    store = FrameStore(root / "outputs" / "frames" / tiny_world.TASK)
    checkpoints = Checkpoints(tmp_path, keep=2)
    result = fit(make(root), store, settings, tiny_world.execution(root), 0, checkpoints=checkpoints)
    assert result.passes == found


def test_a_number_that_does_not_fit_is_refused_with_one_that_does(root: Path) -> None:
    settings = tiny_world.training(root, micro_batches=4, batch_size=8)
    with pytest.raises(TrainingError, match=r"micro_batches.*found 4.*8 videos at once.*auto, or 4 with grad_cache"):
        divide(make(root), settings, fits=room_for(2, 8))
    with pytest.raises(TrainingError, match=r"found 4.*use a smaller training\.batch_size"):
        divide(make(root), settings, fits=room_for(0, 8))


def test_other_words_than_auto_are_refused(root: Path) -> None:
    text = (root / "params.yaml").read_text()
    assert "micro_batches: 4" in text
    (root / "other.yaml").write_text(text.replace("micro_batches: 4", "micro_batches: car"))
    with pytest.raises(ConfigError, match=r"training\.micro_batches"):
        load_params(root / "other.yaml")


def test_flops_are_those_of_forward_and_backward_pass(root: Path) -> None:
    """Training everything takes a backward pass of twice the forward pass. A frozen weight saves half of that."""
    method = make(root, "full")
    settings = tiny_world.training(root)
    backbone = meta_backbone(mini.NAME)
    cost = count("full", {"lr": 1e-3}, backbone, frames=method.frames, words=method.words)
    forward = 2 * (cost.video_macs_run + cost.text_macs)
    assert flops_per_video(method, settings) / forward == pytest.approx(3.0, rel=0.1)
    assert flops_per_video(make(root, "bias"), settings) / forward == pytest.approx(2.0, rel=0.1)
    assert all(parameter.grad is None for parameter in method.parameters())


@pytest.mark.gpu
def test_a_small_card_takes_more_passes(root: Path) -> None:
    """The card's memory is limited for this test, so that a pass of the whole batch fails for real."""
    method = make(root, "full").cuda()
    settings = tiny_world.training(root, micro_batches="auto", batch_size=4096)
    free, total = torch.cuda.mem_get_info()
    assert free > 2**30
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**30 / total)
    try:
        passes = divide(method, settings)
        assert passes.micro_batches > 1
        assert passes.grad_cache
        assert fits_device(method, settings, passes)
        assert not fits_device(method, settings, Passes(1, False))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
