"""No index is made of vectors that rank nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny_world
import torch

from components.backbones.clip import load_backbone
from components.errors import DataError
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.build import build
from components.search import index


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tiny_world.write_project(tmp_path)
    params = tiny_world.params(tmp_path)
    method = build("vop", params.method("vop"), load_backbone(params.backbone, tmp_path), frames=4, words=16)
    with torch.no_grad():
        method.trainable()["generic_prompts"].view(-1)[0] = math.nan
    store = FrameStore(Layout(tmp_path).frames(tiny_world.TASK))
    with pytest.raises(DataError, match=r"vectors with NaN or Inf; found 'test000, .* 3 more \(8 in all\)'"):
        index.build(method, store, split="test", adapter_sha256="0", batch_size=5)
