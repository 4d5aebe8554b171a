"""What rank 0 writes reaches the driver: figures, messages, nothing twice."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from components.training.progress import ProgressFollower, ProgressWriter


def test_figures_and_messages_arrive_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "progress.jsonl"
    ProgressWriter(path).figures(1, {"loss": 9.0})
    seen: list[tuple[int, dict[str, float]]] = []
    with (
        caplog.at_level(logging.INFO, logger="components.training.progress"),
        ProgressFollower(path, lambda step, figures: seen.append((step, figures))),
    ):
        writer = ProgressWriter(path)
        writer.figures(10, {"loss": 1.5})
        writer.emit(logging.LogRecord("x", logging.INFO, "", 0, "epoch %d", (3,), None))
        # A replaced worker goes on in the same file, after the half line of the killed one.
        with path.open("a") as stream:
            stream.write('{"step": 11, "fig')
        ProgressWriter(path).figures(11, {"loss": 1.0})
        ProgressWriter(path).figures(12, {"loss": 0.5})
    assert seen == [(10, {"loss": 1.5}), (11, {"loss": 1.0}), (12, {"loss": 0.5})]
    assert "epoch 3" in caplog.text
    assert "unreadable progress line" in caplog.text


def test_a_failing_log_is_an_error(tmp_path: Path) -> None:
    def refuse(step: int, figures: dict[str, float]) -> None:
        raise ConnectionError("store is gone")

    with pytest.raises(ConnectionError, match="store is gone"), ProgressFollower(tmp_path / "p", refuse):
        ProgressWriter(tmp_path / "p").figures(1, {"loss": 1.0})
