"""Losses are read a fixed number of steps late, in order, and a bad one still names its step and videos."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from components.errors import TrainingError
from components.training.readings import GPU_LATE, Read, Readings


class Copies:
    """Records which copies have been waited for."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    def __call__(self, values: Tensor) -> Read:
        def read() -> Sequence[float]:
            found: list[float] = values.tolist()
            self.waited.append(found[0])
            return found

        return read


def add(readings: Readings, step: int, loss: float | None = None) -> list[int]:
    """Adds a step, by default with its number as its loss, and returns the steps that became known."""
    values = torch.tensor(float(step) if loss is None else loss), torch.tensor(0.5)
    return [known.step for known in readings.add(step, (f"video{step}",), 7, *values)]


def test_on_a_cpu_each_step_is_known_at_once() -> None:
    readings = Readings.on(torch.device("cpu"))
    (known,) = readings.add(3, ("a",), 7, torch.tensor(0.1, requires_grad=True), torch.tensor(0.2))
    assert (known.step, known.frames) == (3, 7)
    assert (known.loss, known.gradient_norm) == (float(torch.tensor(0.1)), float(torch.tensor(0.2)))
    with pytest.raises(TrainingError, match=r"videos video4.*loss nan and gradient norm 0\.5 at step 4;"):
        add(readings, 4, float("nan"))
    assert Readings.on(torch.device("cuda"))._late == GPU_LATE == 4


def test_late_steps_come_in_order_and_no_copy_is_waited_for_early() -> None:
    copies = Copies()
    readings = Readings(4, copies)
    assert [add(readings, step) for step in range(1, 7)] == [[], [], [], [], [1], [2]]
    assert copies.waited == [1, 2]
    assert [known.step for known in readings.rest()] == [3, 4, 5, 6]
    assert readings.rest() == []


def test_a_bad_step_is_found_four_steps_later_or_before_anything_is_saved() -> None:
    readings = Readings(4, Copies())
    add(readings, 1)
    add(readings, 2, float("inf"))
    assert [add(readings, step) for step in (3, 4)] == [[], []]
    assert add(readings, 5) == [1]
    with pytest.raises(TrainingError, match=r"videos video2.*loss inf and gradient norm 0\.5 at step 2;"):
        add(readings, 6)
    again = Readings(4, Copies())
    add(again, 1, float("nan"))
    with pytest.raises(TrainingError, match="at step 1;"):
        again.rest()
