"""Single parts of MV-Adapter against the authors' released code: outputs and all gradients (cases 6a to 6f)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden import arrays, close, close_gradient
from test_golden_mv_adapter import our_name
from torch import Tensor, nn

from components.backbones.towers import Flow
from components.methods.build import read_settings
from components.methods.mv_adapter import Calibration, TextAdapter, VideoAdapter

WIDTH, FACTOR = 24, 5
MAX_FRAMES, TOKENS = 6, 7


def settings(**raw: Any) -> Any:
    return read_settings("mv_adapter", {"lr": 1e-3, "factor": FACTOR, **raw})


def fill(module: nn.Module, case: dict[str, Tensor], frames: int | None = None) -> None:
    """Copies the case's weights into ``module``. A video's positions go to the rows of their frames."""
    parameters = dict(module.named_parameters())
    filled = set()
    for theirs in (name for name in case if name.startswith("w.") and name != "w.shared_factor"):
        ours = our_name(theirs.removeprefix("w."), 0)
        value = case[theirs]
        if ours == "positions" and frames is not None:
            value = torch.zeros_like(value).index_copy_(0, rows(frames), value[: 2 * frames + 1])
        parameters[ours].data.copy_(value)
        filled.add(ours)
    assert filled == set(parameters)


def rows(frames: int) -> Tensor:
    """Our position rows for the CC token, and for the class tokens and patches of ``frames`` frames."""
    return torch.tensor([0, *range(1, 1 + frames), *range(1 + MAX_FRAMES, 1 + MAX_FRAMES + frames)])


def check_gradients(module: nn.Module, case: dict[str, Tensor], frames: int | None = None) -> None:
    parameters = dict(module.named_parameters())
    for theirs in (name for name in case if name.startswith("grad.w.") and name != "grad.w.shared_factor"):
        ours = our_name(theirs.removeprefix("grad.w."), 0)
        gradient = parameters[ours].grad
        assert gradient is not None, ours
        expected = case[theirs]
        if ours == "positions" and frames is not None:
            gradient, expected = gradient[rows(frames)], expected[: 2 * frames + 1]
        close_gradient(ours, gradient, expected)


@pytest.mark.parametrize(
    ("name", "raw", "tied"),
    [
        (
            "case06a_video_adapter",
            {"bottleneck": 16, "input_norm": True, "tie": "down_in", "calibrate": ["class", "patch"]},
            True,
        ),
        ("case06b_video_adapter_plain", {"bottleneck": 16}, False),
    ],
)
def test_video_adapter(name: str, raw: dict[str, Any], tied: bool) -> None:
    case = arrays(name)
    mask = case["in.mask"].bool()
    frames = mask.shape[1]
    adapter = VideoAdapter(WIDTH, settings(**raw), MAX_FRAMES, tied=tied)
    fill(adapter, case, frames)
    # The release uses [1+N, B*T, D].
    x = case["in.x"].transpose(0, 1).contiguous().requires_grad_(True)
    factor = case["w.shared_factor"].requires_grad_(True) if tied else None
    delta = adapter(x, Flow(frames=frames, mask=mask), factor)
    # This compares padding frames too, although they never reach a video's embedding.
    close("delta", delta, case["out.delta"].transpose(0, 1))
    cotangent = case["in.cotangent"].transpose(0, 1)
    (delta * cotangent).sum().backward()
    check_gradients(adapter, case, frames)
    close_gradient("x", x.grad, case["grad.in.x"].transpose(0, 1))
    if factor is not None:
        close_gradient("factor", factor.grad, case["grad.w.shared_factor"])


@pytest.mark.parametrize(
    ("name", "raw", "tied"),
    [
        ("case06c_text_adapter", {"bottleneck": 12, "input_norm": True, "tie": "down_out"}, True),
        ("case06d_text_adapter_plain", {"bottleneck": 12}, False),
    ],
)
def test_text_adapter(name: str, raw: dict[str, Any], tied: bool) -> None:
    case = arrays(name)
    adapter = TextAdapter(WIDTH, settings(**raw), TOKENS, tied=tied)
    fill(adapter, case)
    x = case["in.x"].transpose(0, 1).contiguous().requires_grad_(True)
    factor = case["w.shared_factor"].requires_grad_(True) if tied else None
    delta = adapter(x, Flow(), factor)
    close("delta", delta, case["out.delta"].transpose(0, 1))
    (delta * case["in.cotangent"].transpose(0, 1)).sum().backward()
    check_gradients(adapter, case)
    close_gradient("x", x.grad, case["grad.in.x"].transpose(0, 1))
    if factor is not None:
        close_gradient("factor", factor.grad, case["grad.w.shared_factor"])


@pytest.mark.parametrize("cc", [True, False])
def test_calibration(cc: bool) -> None:
    case = arrays("case06e_calibration_with_cc" if cc else "case06f_calibration_without_cc")
    calibration = Calibration(settings(bottleneck=16, cc=cc))
    fill(calibration, case)
    x, mask = case["in.x"].requires_grad_(True), case["in.mask"].bool()
    token = case["in.cc"].requires_grad_(True) if cc else None
    out = calibration(x, token, mask)
    close("calibration", out, case["out.calibration"])
    (out * case["in.cotangent"]).sum().backward()
    check_gradients(calibration, case)
    close_gradient("x", x.grad, case["grad.in.x"])
    if token is not None:
        close_gradient("cc", token.grad, case["grad.in.cc"])
