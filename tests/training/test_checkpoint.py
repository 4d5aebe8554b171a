"""Checkpoints: whole or not there, few kept, damaged ones passed over."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from components.training.checkpoint import KEPT, Checkpoints


def test_the_newest_is_read_and_old_ones_go(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "made" / "later")
    assert checkpoints.latest() is None
    for step in (3, 6, 900):
        checkpoints.save(step, {"weights": torch.full((2,), float(step)), "curve": [{"epoch": step}]})
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 900
    assert found[1]["weights"].tolist() == [900, 900]
    assert checkpoints.steps() == [900, 6][:KEPT]
    assert len(list(checkpoints.folder.iterdir())) == KEPT


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_one_costs_a_warning(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {"weights": torch.full((1000,), float(step))})
    path = tmp_path / "step-000000002.pt"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 255
    path.write_bytes({"cut": bytes(content[:middle]), "flipped": bytes(content), "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        found = checkpoints.latest()
    assert found is not None
    assert found[0] == 1
    assert "step-000000002.pt is damaged" in caplog.text


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".step-000000007.pt.host-1.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == []
    checkpoints.save(1, {"a": 1})
    assert (tmp_path / "notes.txt").exists()
    checkpoints.clear()
    assert not tmp_path.exists()
