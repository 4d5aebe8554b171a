"""Encoders as ONNX: the same vectors as PyTorch, or the reason why there is no file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tiny_world
import torch

from components.backbones.load import load_backbone
from components.errors import ConfigError
from components.methods.base import Method
from components.methods.build import build
from components.search import encoders
from components.search.encoders import check_installed, write_encoders

FRAMES, WORDS = 4, 16


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    tiny_world.write_params(folder)
    tiny_world.write_backbone(folder)
    return folder


def trained(root: Path, name: str) -> Method:
    params = tiny_world.params(root)
    backbone = load_backbone(params.backbone, root)
    torch.manual_seed(0)
    made = build(name, params.method(name), backbone, frames=FRAMES, words=WORDS).eval()
    for parameter in made.trainable().values():
        torch.nn.init.normal_(parameter, std=0.05)
    return made


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--onnx: not installed; found 'onnx, onnxruntime'.*pip install onnx onnx"):
        check_installed()


needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None,
    reason="onnx and onnxruntime are not installed",
)


@needs_onnx
@pytest.mark.parametrize("name", ["mv_adapter", "vop_fpc"])
def test_graphs_give_the_vectors_of_pytorch_for_any_batch(root: Path, name: str, tmp_path: Path) -> None:
    import onnxruntime

    method = trained(root, name)
    made = write_encoders(method, tmp_path)
    assert {key: (value.file, value.reason) for key, value in made.items()} == {
        "video": ("video.onnx", None),
        "text": ("text.onnx", None),
    }
    frames = torch.randint(0, 256, (5, FRAMES, 3, 32, 32), dtype=torch.uint8)
    tokens = method.backbone.tokenize(["a", "b c d e", "two red squares " * 9], WORDS)
    with torch.no_grad():
        videos = method.encode_video(method.backbone.normalize(frames), torch.ones(5, FRAMES, dtype=torch.bool))
        texts = method.encode_text(tokens)
    for file, key, values, expected in (
        ("video.onnx", "frames", frames, videos),
        ("text.onnx", "tokens", tokens, texts),
    ):
        found = onnxruntime.InferenceSession(str(tmp_path / file)).run(None, {key: values.numpy()})[0]
        assert np.abs(found - expected.numpy()).max() < 1e-5


@needs_onnx
def test_a_method_that_cannot_be_traced_says_why(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TempMe sorts tokens in a way that ONNX lacks. Its text encoder is LoRA's."""
    made = write_encoders(trained(root, "tempme"), tmp_path)
    assert made["video"].file is None
    assert "it cannot be traced" in str(made["video"].reason)
    assert made["text"].file == "text.onnx"
    assert [file.name for file in tmp_path.iterdir()] == ["text.onnx"]
    assert capsys.readouterr().out == ""


@needs_onnx
def test_a_graph_that_differs_is_not_kept(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "TOLERANCE", -1.0)
    made = write_encoders(trained(root, "mv_adapter"), tmp_path)
    assert "differs from PyTorch by" in str(made["text"].reason)
    assert list(tmp_path.iterdir()) == []
