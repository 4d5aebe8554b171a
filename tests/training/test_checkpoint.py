"""Checkpoints are whole or absent, few are kept, and damaged ones are passed over, on disk and on an object store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import object_store
import pytest
import torch
from torch import nn

from components import storage
from components.errors import TrainingError
from components.training.checkpoint import Checkpoints
from components.training.state import check_state

s3, s3_server = object_store.s3, object_store.s3_server


@pytest.fixture(params=["path", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder for checkpoints that does not exist yet."""
    return str(tmp_path / "made" / "later") if request.param == "path" else request.getfixturevalue("s3")


def test_the_newest_is_read_and_old_ones_go(folder: str) -> None:
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.latest() is None
    for step in (3, 6, 900):
        checkpoints.save(step, {"weights": torch.full((2,), float(step)), "curve": [{"epoch": step}]})
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 900
    assert found[1]["weights"].tolist() == [900, 900]
    assert checkpoints.steps() == [900, 6]
    assert len(storage.list_files(folder)) == 2


def one_byte_at(position: float) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[round(position * (len(content) - 1))] ^= 1
        return bytes(changed)

    return damage


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut in the middle": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "without its first byte": lambda content: content[1:],
    "empty": lambda content: b"",
    "of the size of the checksum": lambda content: content[-32:],
    "zeros": lambda content: bytes(len(content)),
    "longer": lambda content: content + b"\0",
    **{f"one bit at {share:.2f}": one_byte_at(share) for share in (0, 0.03, 0.25, 0.5, 0.75, 0.97, 1)},
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_one_costs_a_warning(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, {"weights": torch.full((1000,), float(step))})
    path = Path(checkpoints.path(2))
    path.write_bytes(DAMAGES[kind](path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        found = checkpoints.latest()
    assert found is not None
    assert found[0] == 1
    assert "step-000000002.pt is damaged" in caplog.text


def test_a_damaged_one_never_pushes_out_a_whole_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(8, {"a": 1})
    Path(checkpoints.path(9)).write_bytes(b"damaged")
    checkpoints.save(8, {"a": 2})
    assert checkpoints.steps() == [8]
    assert checkpoints.latest() == (8, {"a": 2})


def state() -> tuple[dict[str, Any], dict[str, torch.Tensor], torch.optim.AdamW]:
    """The state of a training of two tensors after one step."""
    parameters = {"w": nn.Parameter(torch.ones(2, 3)), "b": nn.Parameter(torch.ones(3))}
    optimiser = torch.optim.AdamW([{"params": [parameters["w"]]}, {"params": [parameters["b"]]}])
    (parameters["w"].sum() + parameters["b"].sum()).backward()
    optimiser.step()
    copy = {name: p.detach().clone() for name, p in parameters.items()}
    whole = {"parameters": copy, "optimiser": optimiser.state_dict(), "progress": {"step": 1}, "best": dict(copy)}
    return whole, dict(parameters), optimiser


def without(tree: dict[str, Any], key: str) -> None:
    del tree[key]


FOREIGN: dict[str, Callable[[dict[str, Any]], object]] = {
    "no part": lambda tree: without(tree, "best"),
    "a part more": lambda tree: tree.update(scaler={}),
    "no parameter": lambda tree: without(tree["parameters"], "b"),
    "another parameter": lambda tree: tree["parameters"].update(c=torch.ones(3)),
    "another shape": lambda tree: tree["parameters"].update(b=torch.ones(4)),
    "another type": lambda tree: tree["parameters"].update(b=torch.ones(3, dtype=torch.float16)),
    "another shape of the best": lambda tree: tree["best"].update(w=torch.ones(3, 2)),
    "another counter": lambda tree: tree["progress"].update(minutes=1),
    "no group": lambda tree: tree["optimiser"]["param_groups"].pop(),
    "another moment": lambda tree: tree["optimiser"]["state"][1].update(exp_avg_sq=torch.ones(7)),
    "no moment": lambda tree: without(tree["optimiser"]["state"][0], "exp_avg"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_one_of_another_training_is_passed_over(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    whole, parameters, optimiser = state()
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, whole)
    FOREIGN[kind](whole)
    checkpoints.save(2, whole)
    found = checkpoints.latest(lambda loaded: check_state(loaded, parameters, optimiser, {"step"}))
    assert found is not None
    assert found[0] == 1
    assert "step-000000002.pt is damaged" in caplog.text


def test_one_without_moments_and_selection_is_whole() -> None:
    whole, parameters, optimiser = state()
    whole["optimiser"]["state"].pop(1)
    check_state({**whole, "best": None}, parameters, optimiser, {"step"})


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".step-000000007.pt.host-1.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.steps() == []
    checkpoints.save(1, {"a": 1})
    assert (tmp_path / "notes.txt").exists()


def test_a_storage_that_refuses_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TrainingError, match=r"step-000000001\.pt: checkpoint cannot be written; found"):
        Checkpoints(tmp_path / "file", keep=2).save(1, {"a": 1})
