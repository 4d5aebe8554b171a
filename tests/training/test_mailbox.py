"""Posts of rank 0 reach the driver: metrics and messages, each once, and the first fault. Also the time left."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import pytest

from components.training import time_left
from components.training.mailbox import Mailbox, MailboxFollower, MailboxWriter
from components.training.time_left import TimeLeft


def test_metrics_and_messages_arrive_once(caplog: pytest.LogCaptureFixture) -> None:
    box = Mailbox()
    seen: list[tuple[int, dict[str, float]]] = []
    with (
        caplog.at_level(logging.INFO, logger="components.training.mailbox"),
        MailboxFollower(box.take, lambda step, metrics: seen.append((step, metrics))),
    ):
        writer = MailboxWriter(box.post)
        writer.metrics(10, {"loss": 1.5})
        writer.emit(logging.LogRecord("x", logging.INFO, "", 0, "epoch %d", (3,), None))
        deadline = time.monotonic() + 30
        while not seen and time.monotonic() < deadline:
            time.sleep(0.01)
        assert seen == [(10, {"loss": 1.5})]
        # A replacement worker continues in the same box.
        MailboxWriter(box.post).metrics(11, {"loss": 1.0})
    assert seen == [(10, {"loss": 1.5}), (11, {"loss": 1.0})]
    assert [record.getMessage() for record in caplog.records] == ["epoch 3"]


def test_a_failing_log_is_an_error() -> None:
    def refuse(step: int, metrics: dict[str, float]) -> None:
        raise ConnectionError("store is gone")

    box = Mailbox()
    with pytest.raises(ConnectionError, match="store is gone"), MailboxFollower(box.take, refuse):
        MailboxWriter(box.post).metrics(1, {"loss": 1.0})


def test_the_first_fault_is_the_one() -> None:
    box = Mailbox()
    assert box.fault() == ""
    box.report("rank 1 is stuck")
    box.report("rank 0 waits for rank 1")
    assert box.fault() == "rank 1 is stuck"


def test_the_mailbox_imports_no_torch() -> None:
    program = "import components.training.mailbox, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time_left.time, "monotonic", lambda: now[0])
    left = TimeLeft(interval_seconds=15)
    said = {}
    for step in range(41, 101):
        # The first step warms up. The others take two seconds.
        now[0] += 60 if step == 41 else 2
        said[step] = left.after(step, 100)
    assert {step: text for step, text in said.items() if text} == {
        49: "0:01:42", 57: "0:01:26", 65: "0:01:10", 73: "0:00:54", 81: "0:00:38", 89: "0:00:22", 97: "0:00:06",
    }  # fmt: skip
