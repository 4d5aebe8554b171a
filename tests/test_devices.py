"""The choice of the device."""

from __future__ import annotations

import pytest
import torch

from components.errors import ConfigError
from components.processes import pick_device


def test_auto_takes_what_is_there() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence_with_the_reason() -> None:
    with pytest.raises(
        ConfigError, match=r"evaluation\.device: PyTorch cannot use a GPU; found '.+'; expected a CUDA"
    ) as raised:
        pick_device("cuda")
    assert "\n" not in str(raised.value)
