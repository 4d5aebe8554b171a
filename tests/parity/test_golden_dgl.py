"""DGL compared with the authors' release, forward and backward, on the CLIP of ``backbone.npz``.

The arrays come from https://github.com/knightyxp/DGL, ``modules/clip.py``, class ``CLIP`` with ``args`` of
``text_prompt_length 8, local_each_frame_prompt_length 4, global_visual_prompt_length 4, unified_transformer_layers 3,
visual_output_type global_prompt0``, four frames, and ``shared_latent_space`` linear or transformer. Its added
parameters are random multiples of 1/32. ``encode_prompt, encode_image, encode_text`` on the inputs of
``case01_plain_meanp`` are L2-normalised. The gradients are those of the sum of all embeddings times
``linspace(-1, 1, 32)``. The release's text prompts after the padding have the gradient zero.
"""

from __future__ import annotations

import pytest
import torch
from golden import GRAD_ATOL, GRAD_RTOL, WORDS, arrays, close, golden_backbone

from components.methods.build import build


@pytest.mark.parametrize("generator", ["linear", "transformer"])
def test_outputs_and_gradients(generator: str) -> None:
    case, inputs = arrays(f"dgl_{generator}"), arrays("case01_plain_meanp")
    method = build("dgl", {"lr": 1e-3, "generator": generator}, golden_backbone(), frames=4, words=WORDS)
    trained = method.trainable()
    assert {key for key in case if not key.startswith(("out.", "grad."))} == set(trained)
    with torch.no_grad():
        for key, parameter in trained.items():
            parameter.copy_(case[key])
    video, text = method(inputs["in.video"], torch.ones(4, 4, dtype=torch.bool), inputs["in.text"])
    close("video", video, case["out.video"], 2e-6)
    close("text", text, case["out.text"], 2e-6)
    weight = torch.linspace(-1, 1, 32)
    ((video * weight).sum() + (text * weight).sum()).backward()
    compared = 0
    for key, parameter in trained.items():
        assert parameter.grad is not None, key
        if f"grad.{key}" in case:
            expected = case[f"grad.{key}"]
            close(key, parameter.grad, expected, GRAD_ATOL + GRAD_RTOL * float(expected.abs().max()))
            compared += 1
    assert compared >= 3
