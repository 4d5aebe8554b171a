"""Text and video encoder of an adapted model as ONNX files, each compared with PyTorch before it is kept.

``video.onnx`` maps ``frames`` (uint8[B, T, 3, S, S], RGB) to ``vectors`` (float32[B, D]). T is the task's number of
frames, and all of them count: a graph has no padding. ``text.onnx`` maps ``tokens`` (int64[B, L]) to the same space. B
is free. Vectors are L2-normalised.

The graphs are traced. A trace keeps the branches of its example, so each graph is compared on other batches, on texts
of other lengths and on frames of other content. One that differs is not kept.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.config import STRICT
from components.errors import ConfigError
from components.methods.base import Method

OPSET = 17

# The largest difference of a coordinate. Vectors have length 1, and float32 gives about 1e-7.
TOLERANCE = 1e-5

PROBES = ("a", "a red circle moves from left to right", "two blue squares and a cross disappear, then it is dark")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Encoder:
    """One encoder.

    Attributes:
        file: The name of the file, None if the method cannot be written.
        input: Name, type and shape of the input.
        difference: The largest difference of a coordinate from PyTorch, over all probes. None without a file.
        reason: Why there is no file, None if there is one.
    """

    file: str | None
    input: str
    difference: float | None
    reason: str | None


def check_installed() -> None:
    """Refuses to begin without the packages that write and run ONNX.

    Raises:
        ConfigError: One of them is not installed.
    """
    if missing := [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]:
        raise ConfigError(
            "not installed",
            where="--onnx",
            found=", ".join(missing),
            expected="onnx and onnxruntime",
            cure="pip install onnx onnxruntime",
        )


class _Video(nn.Module):
    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, frames: Tensor) -> Tensor:
        mask = torch.ones(frames.shape[:2], dtype=torch.bool)
        return self.method.encode_video(self.method.backbone.normalize(frames), mask)


class _Text(nn.Module):
    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, tokens: Tensor) -> Tensor:
        return self.method.encode_text(tokens)


def write_encoders(method: Method, folder: Path) -> dict[str, Encoder]:
    """Writes ``video.onnx`` and ``text.onnx``, those of the two that can be written.

    Args:
        method: The backbone with the adapter, on the CPU.
        folder: An existing folder.

    Raises:
        ConfigError: A package is not installed.
    """
    check_installed()
    size, frames, words = method.spec.image_size, method.frames, method.words
    generator = torch.Generator().manual_seed(0)

    def film(count: int) -> Tensor:
        return torch.randint(0, 256, (count, frames, 3, size, size), dtype=torch.uint8, generator=generator)

    # A full text: a shorter one would leave a graph for texts of its length.
    full = method.backbone.tokenize([" ".join(["circle"] * words)] * 2, words)
    texts = method.backbone.tokenize(list(PROBES), words)
    method = method.eval()
    return {
        "video": _write(
            _Video(method), film(2), [film(1), film(3)], folder / "video.onnx", f"uint8[B, {frames}, 3, {size}, {size}]"
        ),
        "text": _write(_Text(method), full, [texts[:1], texts, full], folder / "text.onnx", f"int64[B, {words}]"),
    }


def _write(module: nn.Module, example: Tensor, probes: Sequence[Tensor], path: Path, form: str) -> Encoder:
    """Traces a module and compares the graph with it."""
    name = "frames" if example.dtype == torch.uint8 else "tokens"
    try:
        run = _traced(module, example, path, name)
        difference = max(_difference(module, run, probe) for probe in (example, *probes))
    except Exception as error:  # of many kinds, from the exporter, the runtime or the method
        first = " ".join(str(error).split()).partition(". ")[0][:300]
        reason = f"it cannot be traced: {type(error).__name__}: {first}"
    else:
        if difference <= TOLERANCE:
            return Encoder(file=path.name, input=f"{name}: {form}", difference=difference, reason=None)
        reason = f"the traced graph differs from PyTorch by {difference:.1e}, more than {TOLERANCE:g}"
    path.unlink(missing_ok=True)
    return Encoder(file=None, input=f"{name}: {form}", difference=None, reason=reason)


Run = Callable[[np.ndarray], np.ndarray]


def _traced(module: nn.Module, example: Tensor, path: Path, name: str) -> Run:
    """Writes the graph of a module and opens it."""
    import onnxruntime  # an optional package

    # The exporter warns of each branch that a trace fixes. The comparison finds those that matter. A graph that it
    # cannot write, it prints.
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            str(path),
            dynamo=False,  # the other exporter stops at any branch on a tensor's values
            input_names=[name],
            output_names=["vectors"],
            dynamic_axes={name: {0: "batch"}, "vectors": {0: "batch"}},
            opset_version=OPSET,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda values: session.run(["vectors"], {name: values})[0]


@torch.no_grad()
def _difference(module: nn.Module, run: Run, probe: Tensor) -> float:
    expected = module(probe).numpy()
    return float(np.abs(run(probe.numpy()) - expected).max())
