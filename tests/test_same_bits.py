"""Trainings give the same bits as release 0.1: hashes of trained adapters, made by that release.

Sums are rounded differently on other processors and by other releases of PyTorch, so the hashes hold for one of each.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import tiny_world
import torch

from components.backbones.load import load_backbone
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.build import build
from components.training.loop import fit

MADE = json.loads((Path(__file__).parent / "golden" / "adapter_hashes.json").read_text())


def here() -> dict[str, str]:
    """What the hashes depend on besides the code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else "unknown",
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("same-bits")
    tiny_world.write_project(folder)
    return folder


@pytest.mark.skipif(here() != MADE["made_on"], reason=f"the hashes were made on {MADE['made_on']}")
@pytest.mark.parametrize("name", sorted(MADE["adapters"]))
def test_a_training_gives_the_bits_of_release_0_1(root: Path, name: str) -> None:
    params = tiny_world.params(root)
    task = params.task(tiny_world.TASK)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        backbone = load_backbone(params.backbone, root)
        torch.manual_seed(0)
        method = build(name, params.method(name), backbone, frames=task.frames, words=task.words)
        fit(method, FrameStore(Layout(root).frames(tiny_world.TASK)), params.training, params.execution, 0)
    finally:
        torch.set_num_threads(threads)
    digest = hashlib.sha256()
    for key, parameter in method.trainable().items():
        digest.update(key.encode() + b"\0" + parameter.detach().contiguous().numpy().tobytes())
    assert digest.hexdigest() == MADE["adapters"][name]
