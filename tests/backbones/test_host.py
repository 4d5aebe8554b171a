"""What the host knows of tensors on a device. The meta device holds no values, so nothing can be read back from it."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import tiny_world
import torch

from components.backbones.host import _COPIES, on_host, split, upload
from components.backbones.load import load_backbone
from components.methods.build import build

META = torch.device("meta")


def test_the_host_keeps_what_it_uploaded_as_long_as_the_copy_is_in_use() -> None:
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    copy = upload(mask, META)
    assert copy.is_meta
    assert on_host(copy) is mask
    parts = split(copy, [2, 1])
    assert [on_host(part).tolist() for part in parts] == [[[True, True], [True, False]], [[True, True]]]
    known = len(_COPIES)
    del copy, parts
    gc.collect()
    assert len(_COPIES) == known - 3


def test_a_tensor_on_the_cpu_is_itself() -> None:
    tokens = torch.arange(4)
    assert upload(tokens, torch.device("cpu")) is tokens
    assert on_host(tokens) is tokens
    assert [part.tolist() for part in split(tokens, [1, 3])] == [[0], [1, 2, 3]]


def test_other_tensors_are_read_from_the_device() -> None:
    with pytest.raises(NotImplementedError, match="meta"):
        on_host(torch.zeros(1, device=META))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mv_adapter", "vop", "vop_fc", "tempme", "discovla"])
def test_a_forward_pass_never_waits_for_the_gpu(name: str, tmp_path: Path) -> None:
    tiny_world.write_project(tmp_path)
    params, device = tiny_world.params(tmp_path), torch.device("cuda")
    backbone = load_backbone(params.backbone, tmp_path)
    method = build(name, params.method(name), backbone, frames=tiny_world.FRAMES, words=16).to(device)
    side = method.spec.image_size
    frames = torch.rand(2, tiny_world.FRAMES, 3, side, side, device=device)
    mask = upload(torch.ones(2, tiny_world.FRAMES, dtype=torch.bool), device)
    tokens = upload(backbone.tokenize(["a red square", "a blue square moves"], 16), device)
    method(frames, mask, tokens)  # the first pass sets up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        method(frames, mask, tokens)
    finally:
        torch.cuda.set_sync_debug_mode("default")
